// Settles what one relocatable object for x86-64 refers to within itself, in place:
//   settle OBJECT
// `ld -r` leaves every call and every constant to the last link, 24 bytes each, with a symbol for
// each callee. Nothing replaces what is in one section of one object, so that distances within it
// are final: they are written here. Calls of one function elsewhere go through one jump. What
// refers to another section does so by the section's symbol, so that `strip` finds names nobody
// needs.
#include <elf.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <iostream>
#include <iterator>
#include <map>
#include <span>
#include <stdexcept>
#include <vector>

namespace {

using Bytes = std::vector<char>;

class Object {
public:
    explicit Object(Bytes bytes) : bytes_(std::move(bytes)) {
        if (bytes_.size() < sizeof(Elf64_Ehdr) ||
            std::memcmp(header().e_ident, ELFMAG, SELFMAG) != 0 || header().e_type != ET_REL ||
            header().e_machine != EM_X86_64) {
            throw std::runtime_error("not a relocatable object for x86-64");
        }
        for (const Elf64_Shdr& section : sections()) {
            if (section.sh_type == SHT_SYMTAB) symbols_ = section;
        }
        for (std::size_t i = 0; i < symbols().size(); ++i) {
            const Elf64_Sym& symbol = symbols()[i];
            if (ELF64_ST_TYPE(symbol.st_info) != STT_SECTION) continue;
            // What the last link merges has no place within its section.
            if ((sections()[symbol.st_shndx].sh_flags & SHF_MERGE) != 0) continue;
            section_symbols_[symbol.st_shndx] = i;
        }
    }

    void settle() {
        for (std::size_t i = 0; i < sections().size(); ++i) {
            if (sections()[i].sh_type == SHT_RELA) settle(i);
        }
    }

    [[nodiscard]] const Bytes& bytes() const noexcept { return bytes_; }

private:
    [[nodiscard]] const Elf64_Ehdr& header() { return *at<Elf64_Ehdr>(0, 1).data(); }
    [[nodiscard]] std::span<Elf64_Shdr> sections() {
        return at<Elf64_Shdr>(header().e_shoff, header().e_shnum);
    }
    [[nodiscard]] std::span<Elf64_Sym> symbols() {
        return at<Elf64_Sym>(symbols_.sh_offset, symbols_.sh_size / sizeof(Elf64_Sym));
    }
    template <class T>
    [[nodiscard]] std::span<T> at(std::size_t offset, std::size_t count) {
        return {reinterpret_cast<T*>(bytes_.data() + offset), count};
    }

    /// The relocations of one section: those that stay move to the front of their table.
    void settle(std::size_t table) {
        const Elf64_Shdr relocations = sections()[table];
        const std::size_t target = relocations.sh_info;
        const Elf64_Shdr section = sections()[target];
        const bool is_code = (section.sh_flags & SHF_EXECINSTR) != 0;
        const auto content = at<char>(section.sh_offset, section.sh_size);
        Bytes text(content.begin(), content.end());
        std::map<std::uint32_t, std::size_t> jumps;  // symbol -> where its jump is
        std::vector<Elf64_Rela> kept;
        std::uint32_t before = R_X86_64_NONE;
        for (Elf64_Rela entry :
             at<Elf64_Rela>(relocations.sh_offset, relocations.sh_size / sizeof(Elf64_Rela))) {
            const std::uint32_t type = ELF64_R_TYPE(entry.r_info);
            const std::uint32_t index = ELF64_R_SYM(entry.r_info);
            const Elf64_Sym symbol = symbols()[index];
            // The last link rewrites what asks for a thread's data, call included.
            const bool of_thread = before == R_X86_64_TLSGD || before == R_X86_64_TLSLD;
            const bool call = type == R_X86_64_PLT32 && !of_thread && is_code;
            before = type;
            const auto settle_to = [&](std::size_t place) {
                const auto distance =
                    static_cast<std::int32_t>(static_cast<std::int64_t>(place) + entry.r_addend -
                                              static_cast<std::int64_t>(entry.r_offset));
                std::memcpy(text.data() + entry.r_offset, &distance, sizeof distance);
            };
            if (type == R_X86_64_NONE) continue;
            if ((call || type == R_X86_64_PC32) && symbol.st_shndx == target) {
                settle_to(symbol.st_value);
            } else if (call && symbol.st_shndx == SHN_UNDEF) {
                const auto [jump, is_new] = jumps.try_emplace(index, text.size());
                settle_to(jump->second);
                if (is_new) {
                    text.insert(text.end(), {'\xe9', 0, 0, 0, 0});
                    kept.push_back({jump->second + 1, entry.r_info, -4});
                }
            } else {
                const auto found = section_symbols_.find(symbol.st_shndx);
                const bool plain = type == R_X86_64_64 || type == R_X86_64_PC32;
                if (plain && found != section_symbols_.end()) {
                    entry.r_info = ELF64_R_INFO(found->second, type);
                    entry.r_addend += static_cast<std::int64_t>(symbol.st_value);
                }
                kept.push_back(entry);
            }
        }
        std::memcpy(bytes_.data() + relocations.sh_offset, kept.data(),
                    kept.size() * sizeof(Elf64_Rela));
        sections()[table].sh_size = kept.size() * sizeof(Elf64_Rela);
        // At the file's end, as it may have grown: `strip` closes the gap.
        bytes_.resize((bytes_.size() + 63) / 64 * 64);
        sections()[target].sh_offset = bytes_.size();
        sections()[target].sh_size = text.size();
        bytes_.insert(bytes_.end(), text.begin(), text.end());
    }

    Bytes bytes_;
    Elf64_Shdr symbols_{};
    std::map<std::size_t, std::size_t> section_symbols_;  // section -> the symbol of its start
};

}  // namespace

int main(int count, char** arguments) try {
    if (count != 2) throw std::runtime_error("usage: settle OBJECT");
    std::ifstream in(arguments[1], std::ios::binary);
    Object object(Bytes(std::istreambuf_iterator<char>(in), {}));
    object.settle();
    std::ofstream out(arguments[1], std::ios::binary);
    out.write(object.bytes().data(), static_cast<std::streamsize>(object.bytes().size()));
    if (!out.flush()) throw std::runtime_error("cannot write");
    return 0;
} catch (const std::exception& error) {
    std::cerr << (count > 1 ? arguments[1] : "settle") << ": " << error.what() << '\n';
    return 1;
}
