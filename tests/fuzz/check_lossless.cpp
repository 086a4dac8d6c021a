#include "check_lossless.hpp"

#include <algorithm>
#include <cstdlib>
#include <vector>

#include "tersor/isa.hpp"
#include "tersor/lossless.hpp"

namespace tersor::fuzz {
namespace {

void require(bool good) {
    if (!good) std::abort();
}

/// The tensor's bytes as every level decodes them; nothing where it is refused.
std::vector<std::uint8_t> decoded(std::span<const std::uint8_t> blob, std::size_t size,
                                  bool verify) {
    std::vector<std::uint8_t> first;
    Result expected;
    for (const Isa isa : compiled_isas()) {
        if (!available(isa)) continue;
        use_isa(isa);
        std::vector<std::uint8_t> bytes(size);
        const Result result = lossless::decode(blob, bytes, {.threads = 1, .verify = verify});
        require(result.ok() || result.count <= blob.size());
        if (isa == Isa::scalar) {
            first = bytes;
            expected = result;
        }
        require(result.ok() == expected.ok() && (!result.ok() || bytes == first));
    }
    return expected.ok() ? first : std::vector<std::uint8_t>();
}

}  // namespace

void check_lossless(std::span<const std::uint8_t> blob) {
    lossless::BlobInfo info;
    const Result inspected = lossless::inspect(blob, info);
    const Result verified = lossless::verify(blob);
    require(verified.ok() || verified.count <= blob.size());
    if (!inspected.ok()) {
        require(inspected.count <= blob.size() && !verified.ok());
        return;
    }
    constexpr std::uint64_t most = std::uint64_t{1} << 22;  // a constant tensor announces any
    if (info.bytes > most) return;
    const auto size = static_cast<std::size_t>(info.bytes);
    for (const bool verify : {true, false}) {
        const std::vector<std::uint8_t> whole = decoded(blob, size, verify);
        if (whole.empty()) continue;
        require(!verify || verified.ok());
        // Elements from the middle alone are those of the whole.
        const std::size_t at = size / 16 * 8;
        std::vector<std::uint8_t> part((size - at) / 16 * 8);
        const Result result = lossless::decode_range(blob, at, part, {.verify = verify});
        require(result.ok() && std::equal(part.begin(), part.end(), whole.data() + at));
    }
}

}  // namespace tersor::fuzz
