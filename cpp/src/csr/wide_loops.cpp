// Loops that the compiler makes wide, in a file that is compiled for that: each is a third of the
// time of packing else.
#include "csr/wide_loops.hpp"

#include <algorithm>

#include "tersor/csr.hpp"

namespace tersor::csr {

std::uint8_t largest_code(std::span<const std::uint8_t> codes) noexcept {
    std::uint8_t largest = 0;
    for (const std::uint8_t code : codes) largest = std::max(largest, code);
    return largest;
}

std::size_t filler_count(const CsrView& csr) noexcept {
    std::size_t fillers = 0;
    constexpr std::size_t block = 255;  // as many as a byte can count
    for (std::size_t at = 0; at < csr.codes.size(); at += block) {
        std::uint8_t count = 0;
        for (const std::uint8_t code :
             csr.codes.subspan(at, std::min(block, csr.codes.size() - at)))
            count = static_cast<std::uint8_t>(count + (code == 0 ? 1 : 0));
        fillers += count;
    }
    return fillers;
}

}  // namespace tersor::csr
