// Prefix coding against huff0, the entropy coder of zstd: one thread, ours and the peer in turns.
// bench_huffman DATA JSON, where DATA has the streams that huffman_data.py writes. See `make
// bench-huffman`.
#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "huffman/kernels.hpp"
#include "huffman/plane_block.hpp"
#include "support/aligned_buffer.hpp"
#include "tersor/huffman.hpp"
#include "tersor/isa.hpp"

// huff0 as libzstd.a 1.5.4 has it; the headers are not installed with the library.
extern "C" {
std::size_t HUF_buildCTable_wksp(std::size_t* table, const unsigned* counts, unsigned last,
                                 unsigned max_bits, void* work, std::size_t work_size);
std::size_t HUF_writeCTable_wksp(void* to, std::size_t size, const std::size_t* table,
                                 unsigned last, unsigned log, void* work, std::size_t work_size);
std::size_t HUF_compress4X_usingCTable(void* to, std::size_t size, const void* from,
                                       std::size_t count, const std::size_t* table, int flags);
std::size_t HUF_readDTableX1_wksp(unsigned* table, const void* from, std::size_t size, void* work,
                                  std::size_t work_size, int flags);
std::size_t HUF_readDTableX2_wksp(unsigned* table, const void* from, std::size_t size, void* work,
                                  std::size_t work_size, int flags);
std::size_t HUF_decompress4X_usingDTable(void* to, std::size_t count, const void* from,
                                         std::size_t size, const unsigned* table, int flags);
unsigned HUF_isError(std::size_t code);
}

namespace {

using namespace tersor;
using Bytes = std::vector<std::uint8_t>;

constexpr std::size_t block_symbols = std::size_t{1} << 17;  // the most that huff0 takes
constexpr int huf_bmi2 = 1;
constexpr int rounds = 25;

[[noreturn]] void fail(const std::string& what) {
    std::fprintf(stderr, "bench_huffman: %s\n", what.c_str());
    std::exit(1);
}

std::size_t checked(std::size_t result) {
    if (HUF_isError(result) != 0) fail("huff0 failed");
    return result;
}

double seconds() {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch())
        .count();
}

/// Zeroed, and in huge pages where the system has them, as NumPy and PyTorch ask for large arrays.
using Memory = support::AlignedBuffer<std::uint8_t>;

/// huff0 with tables built before; blocks of 128K symbols.
class Huff0 {
public:
    explicit Huff0(std::span<const std::uint8_t> symbols) {
        const huffman::Histogram counts = huffman::histogram(symbols);
        std::array<unsigned, 256> narrow{};
        unsigned last = 0;
        for (unsigned s = 0; s < 256; ++s) {
            narrow[s] = static_cast<unsigned>(counts[s]);
            if (counts[s] != 0) last = s;
        }
        std::vector<std::uint64_t> work(8192);
        const std::size_t work_size = work.size() * sizeof(work[0]);
        const auto log = static_cast<unsigned>(checked(HUF_buildCTable_wksp(
            encoder_.data(), narrow.data(), last, 11, work.data(), work_size)));
        std::array<std::uint8_t, 512> header{};
        const std::size_t size = checked(HUF_writeCTable_wksp(
            header.data(), header.size(), encoder_.data(), last, log, work.data(), work_size));
        single_[0] = double_[0] = 12 * 0x01000001U;  // room for 2^12 cells
        checked(HUF_readDTableX1_wksp(single_.data(), header.data(), size, work.data(), work_size,
                                      huf_bmi2));
        checked(HUF_readDTableX2_wksp(double_.data(), header.data(), size, work.data(), work_size,
                                      huf_bmi2));
    }
    [[nodiscard]] std::size_t encode(std::span<const std::uint8_t> block,
                                     std::span<std::uint8_t> to) const {
        return checked(HUF_compress4X_usingCTable(to.data(), to.size(), block.data(), block.size(),
                                                  encoder_.data(), huf_bmi2));
    }
    /// Two symbols a look-up (4X2), the fastest, or one (4X1).
    void decode(std::span<const std::uint8_t> block, std::span<std::uint8_t> to, bool two) const {
        checked(HUF_decompress4X_usingDTable(to.data(), to.size(), block.data(), block.size(),
                                             two ? double_.data() : single_.data(), huf_bmi2));
    }

private:
    std::array<std::size_t, 257> encoder_{};
    std::array<unsigned, 4097> single_{};
    std::array<unsigned, 4097> double_{};
};

/// Ours in blocks with a code built before.
class Ours {
public:
    Ours(std::span<const std::uint8_t> symbols, Isa isa)
        : encoder_(huffman::encode_kernels(isa)),
          decoder_(huffman::decode_kernels(isa)),
          code_(huffman::choose_block_code(symbols, huffman::histogram(symbols))) {}
    [[nodiscard]] std::size_t encode(std::span<const std::uint8_t> block,
                                     std::span<std::uint8_t> to) {
        const auto bytes = encode_in_scratch(block);
        std::memcpy(to.data(), bytes.data(), bytes.size());
        return bytes.size();
    }
    [[nodiscard]] std::span<const std::uint8_t> encode_in_scratch(
        std::span<const std::uint8_t> block) {
        return huffman::encode_block(encoder_, code_, block, scratch_);
    }
    void decode(std::span<const std::uint8_t> block, std::span<std::uint8_t> to, bool verify,
                bool streaming) {
        const Result result =
            huffman::decode_block(decoder_, code_, block, 0, to,
                                  {.verify = verify, .streaming = streaming}, scratch_.parts);
        if (!result.ok()) fail("a block of ours does not decode");
    }

private:
    const huffman::EncodeKernels& encoder_;
    const huffman::DecodeKernels& decoder_;
    huffman::BlockCode code_;
    huffman::BlockScratch scratch_;
};

/// Seconds of each function, the least and the median of turns in which each runs `times` times.
template <class First, class Second>
std::pair<std::array<double, 2>, std::array<double, 2>> in_turns(int times, const First& first,
                                                                 const Second& second) {
    std::array<std::vector<double>, 2> taken;
    for (int round = 0; round < rounds; ++round) {
        const auto time = [&](const auto& function, std::vector<double>& to) {
            function();  // warms the caches, which the other one has just used
            const double start = seconds();
            for (int i = 0; i < times; ++i) function();
            to.push_back((seconds() - start) / times);
        };
        time(first, taken[0]);
        time(second, taken[1]);
    }
    std::array<double, 2> least{}, median{};
    for (std::size_t i = 0; i < 2; ++i) {
        std::sort(taken[i].begin(), taken[i].end());
        least[i] = taken[i].front();
        median[i] = taken[i][taken[i].size() / 2];
    }
    return {least, median};
}

struct Row {
    std::string set, what, isa, peer;
    double ours = 0, theirs = 0, ratio_of_medians = 0;
    bool checksum = false;
    double bits = 0, entropy = 0, optimal = 0;
};

using Block = std::span<const std::uint8_t>;

/// A stream cut into blocks, each coded by `encode`, one after the other as in a file.
struct Coded {
    Memory memory;
    std::vector<Block> blocks;

    template <class Encode>
    Coded(std::span<const std::uint8_t> symbols, const Encode& encode)
        : memory(symbols.size() + symbols.size() / 4 + 2 * block_symbols) {
        std::size_t end = 0;
        for (std::size_t at = 0; at < symbols.size(); at += block_symbols) {
            const auto part = symbols.subspan(at, std::min(block_symbols, symbols.size() - at));
            const std::span<std::uint8_t> room(memory.data() + end, memory.size() - end);
            blocks.push_back(room.first(encode(part, room)));
            end += blocks.back().size();
        }
    }
};

template <class Decode>
void decode_all(const Coded& coded, std::span<std::uint8_t> to, const Decode& decode) {
    for (std::size_t b = 0; b < coded.blocks.size(); ++b) {
        const std::size_t at = b * block_symbols;
        decode(coded.blocks[b], to.subspan(at, std::min(block_symbols, to.size() - at)));
    }
}

std::vector<Row> measure(const std::string& set, const Bytes& symbols, Isa isa) {
    Row base;
    base.set = set;
    base.isa = name(isa);
    const huffman::Histogram counts = huffman::histogram(symbols);
    base.entropy = huffman::entropy(counts);
    const huffman::CodeLengths lengths = huffman::code_lengths(counts, huffman::max_code_length);
    for (std::size_t s = 0; s < 256; ++s) {
        base.optimal += static_cast<double>(counts[s]) * lengths[s];
    }
    const auto count = static_cast<double>(symbols.size());
    base.optimal /= count;
    use_isa(isa);
    base.bits = 8 * static_cast<double>(huffman::encode(symbols).size()) / count;

    const Huff0 huff0(symbols);
    Ours ours(symbols, isa);
    const auto encode_huff0 = [&](auto from, auto to) { return huff0.encode(from, to); };
    const auto encode_ours = [&](auto from, auto to) { return ours.encode(from, to); };
    const Coded theirs(symbols, encode_huff0);
    const Coded mine(symbols, encode_ours);
    // Round trips first: nothing is timed that is not right.
    Memory memory(symbols.size());
    const std::span<std::uint8_t> out(memory.data(), symbols.size());
    const auto check = [&](const char* who) {
        if (!std::equal(out.begin(), out.end(), symbols.begin()))
            fail(std::string(who) + " is wrong");
        std::fill(out.begin(), out.end(), std::uint8_t{0});
    };
    for (const bool two : {false, true}) {
        decode_all(theirs, out, [&](Block b, auto to) { huff0.decode(b, to, two); });
        check("huff0");
    }
    for (const bool streaming : {false, true}) {
        decode_all(mine, out, [&](Block b, auto to) { ours.decode(b, to, true, streaming); });
        check("ours");
    }

    std::vector<Row> rows;
    const bool portable = isa == Isa::scalar;
    const bool two = !portable;
    const auto add = [&](const char* what, const char* peer, bool checksum, double symbols_done,
                         const auto& times) {
        Row row = base;
        row.what = what;
        row.peer = peer;
        row.checksum = checksum;
        row.ours = symbols_done / times.first[0] / 1e9;
        row.theirs = symbols_done / times.first[1] / 1e9;
        row.ratio_of_medians = times.second[1] / times.second[0];
        rows.push_back(row);
    };
    const char* decoder = two ? "huff0 4X2" : "huff0 4X1";
    const std::span<const std::uint8_t> first(symbols.data(),
                                              std::min(block_symbols, symbols.size()));
    const auto in_l2 = out.first(first.size());
    const int times = portable ? 2 : 16;
    for (const bool checksum : {false, true}) {
        add("decode_l2", decoder, checksum, static_cast<double>(first.size()),
            in_turns(
                times, [&] { ours.decode(mine.blocks[0], in_l2, checksum, false); },
                [&] { huff0.decode(theirs.blocks[0], in_l2, two); }));
    }
    Bytes buffer(2 * block_symbols);
    add("encode_l2", "huff0 4X", true, static_cast<double>(first.size()),
        in_turns(
            times, [&] { (void)ours.encode_in_scratch(first); },
            [&] { (void)huff0.encode(first, buffer); }));
    if (portable) return rows;
    for (const bool checksum : {false, true}) {
        add("decode_memory", decoder, checksum, count,
            in_turns(
                1,
                [&] {
                    decode_all(mine, out,
                               [&](Block b, auto to) { ours.decode(b, to, checksum, true); });
                },
                [&] {
                    decode_all(theirs, out, [&](Block b, auto to) { huff0.decode(b, to, two); });
                }));
    }
    Bytes all(symbols.size() + symbols.size() / 4 + buffer.size());
    const auto encode_all = [&](const auto& encode) {
        std::size_t at = 0;
        for (std::size_t i = 0; i < symbols.size(); i += block_symbols) {
            const auto part =
                std::span(symbols).subspan(i, std::min(block_symbols, symbols.size() - i));
            at += encode(part, std::span(all).subspan(at));
        }
    };
    add("encode_memory", "huff0 4X", true, count,
        in_turns(1, [&] { encode_all(encode_ours); }, [&] { encode_all(encode_huff0); }));
    return rows;
}

void write_json(const std::vector<Row>& rows, const std::string& path) {
    std::ofstream out(path);
    out << "[\n";
    for (std::size_t i = 0; i < rows.size(); ++i) {
        const Row& r = rows[i];
        std::array<char, 512> line{};
        std::snprintf(line.data(), line.size(),
                      R"(  {"set": "%s", "what": "%s", "isa": "%s", "checksum": %s, )"
                      R"("ours_gsym_s": %.3f, "peer": "%s", "peer_gsym_s": %.3f, "ratio": %.3f, )"
                      R"("ratio_of_medians": %.3f, "bits_per_symbol": %.5f, "entropy": %.5f, )"
                      R"("optimal_huffman": %.5f}%s)",
                      r.set.c_str(), r.what.c_str(), r.isa.c_str(), r.checksum ? "true" : "false",
                      r.ours, r.peer.c_str(), r.theirs, r.ours / r.theirs, r.ratio_of_medians,
                      r.bits, r.entropy, r.optimal, i + 1 < rows.size() ? "," : "");
        out << line.data() << "\n";
    }
    out << "]\n";
    if (!out) fail("cannot write " + path);
}

/// The bandwidth of non-temporal stores, the limit of decoding to memory, in GB/s.
double store_bandwidth() {
#if defined(__SSE2__)
    constexpr std::size_t size = std::size_t{1} << 24;
    Memory memory(size);
    double best = 1e9;
    for (int round = 0; round < rounds; ++round) {
        const double start = seconds();
        for (std::size_t i = 0; i < size; i += 8) {
            __asm__ volatile("movnti %1, %0"
                             : "=m"(*reinterpret_cast<std::uint64_t*>(memory.data() + i))
                             : "r"(i));
        }
        __asm__ volatile("sfence" ::: "memory");
        best = std::min(best, seconds() - start);
    }
    return static_cast<double>(size) / best / 1e9;
#else
    return 0;
#endif
}

void print(const std::vector<Row>& rows) {
    std::map<std::string, std::pair<double, int>> means;
    std::printf("%-3s %-7s %-14s %-8s %10s %22s %7s %8s\n", "set", "isa", "what", "checksum",
                "Gsym/s", "peer", "ratio", "medians");
    for (const Row& r : rows) {
        std::printf("%-3s %-7s %-14s %-8s %10.2f %12s %9.2f %7.2f %8.2f\n", r.set.c_str(),
                    r.isa.c_str(), r.what.c_str(), r.checksum ? "yes" : "no", r.ours,
                    r.peer.c_str(), r.theirs, r.ours / r.theirs, r.ratio_of_medians);
        auto& mean = means[r.isa + " " + r.what + (r.checksum ? ", checksum" : "")];
        mean.first += std::log(r.ours / r.theirs);
        ++mean.second;
    }
    std::printf("\ngeometric means of the ratios\n");
    for (const auto& [what, mean] : means) {
        std::printf("  %-40s %6.2f\n", what.c_str(), std::exp(mean.first / mean.second));
    }
    std::printf("\nset  entropy  optimal Huffman    ours, whole stream\n");
    std::string last;
    for (const Row& r : rows) {
        if (r.set == last) continue;
        last = r.set;
        std::printf("%-3s %9.4f %16.4f %12.4f (%+.2f %% / %+.2f %%)\n", r.set.c_str(), r.entropy,
                    r.optimal, r.bits, 100 * (r.bits / r.entropy - 1),
                    100 * (r.bits / r.optimal - 1));
    }
    std::printf("\n16M stores past the caches: %.1f GB/s\n", store_bandwidth());
}

/// 500 symbols of a stream with everything that they need.
void print_small(const Bytes& symbols) {
    const auto few = std::span(symbols).first(500);
    std::printf("500 symbols of (a): %zu bytes; entropy %.0f\n", huffman::encode(few).size(),
                huffman::entropy(huffman::histogram(few)) * 500 / 8);
}

Bytes read(const std::string& path) {
    std::ifstream in(path, std::ios::binary);
    if (!in) fail("cannot read " + path);
    return {std::istreambuf_iterator<char>(in), {}};
}

}  // namespace

int main(int count, char** arguments) {
    if (count != 3) fail("usage: bench_huffman DATA JSON");
    std::vector<Row> rows;
    for (const char set : std::string("abcdef")) {
        const Bytes symbols = read(std::string(arguments[1]) + "/" + set + ".bin");
        for (const Isa isa : compiled_isas()) {
            if (!available(isa)) continue;
            for (const Row& row : measure(std::string(1, set), symbols, isa)) rows.push_back(row);
        }
    }
    print(rows);
    print_small(read(std::string(arguments[1]) + "/a.bin"));
    write_json(rows, arguments[2]);
    return 0;
}
