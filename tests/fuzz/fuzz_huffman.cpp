// A stream of any bytes, decoded on every instruction set, with and without its checksums: they
// agree on the symbols or on the refusal.
#include <algorithm>
#include <cstdlib>
#include <vector>

#include "guarded.hpp"
#include "tersor/huffman.hpp"
#include "tersor/isa.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const tersor::test::GuardedBytes guarded({data, size});
    tersor::huffman::StreamInfo info;
    const tersor::Result inspected = tersor::huffman::inspect(guarded.bytes(), info);
    if (!inspected.ok()) {
        if (inspected.count > size) std::abort();
        return 0;
    }
    constexpr std::uint64_t most = std::uint64_t{1} << 22;  // a constant stream announces any
    if (info.symbols > most) return 0;
    for (const bool verify : {true, false}) {
        std::vector<std::uint8_t> first;
        tersor::Result expected;
        for (const tersor::Isa isa : tersor::compiled_isas()) {
            if (!tersor::available(isa)) continue;
            tersor::use_isa(isa);
            std::vector<std::uint8_t> symbols(static_cast<std::size_t>(info.symbols));
            const tersor::Result result =
                tersor::huffman::decode(guarded.bytes(), symbols, {.threads = 1, .verify = verify});
            if (!result.ok() && result.count > size) std::abort();
            if (isa == tersor::Isa::scalar) {
                first = symbols;
                expected = result;
            } else if (result.ok() != expected.ok() || (result.ok() && symbols != first)) {
                std::abort();
            }
        }
        if (!expected.ok() || first.empty()) continue;
        // Symbols from the middle alone are those of the whole.
        const std::size_t at = first.size() / 2;
        std::vector<std::uint8_t> part((first.size() - at + 1) / 2);
        if (!tersor::huffman::decode_range(guarded.bytes(), at, part).ok() && verify) std::abort();
        if (verify && !std::equal(part.begin(), part.end(), first.data() + at)) std::abort();
    }
    return 0;
}
