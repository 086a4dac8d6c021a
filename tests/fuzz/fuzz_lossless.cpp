// A blob of a tensor without loss of any bytes, on every instruction set. What is fuzzed is the
// blob with the checksum of its head made right, so that damage reaches what stands behind it.
#include <vector>

#include "check_lossless.hpp"
#include "guarded.hpp"
#include "lossless/blob.hpp"
#include "support/little_endian.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    std::vector<std::uint8_t> bytes(data, data + size);
    tersor::lossless::ParsedBlob parsed;
    if (tersor::lossless::parse(bytes, parsed, false).ok() &&
        parsed.form == tersor::lossless::Form::blocks) {
        const std::size_t head = parsed.payload - tersor::lossless::checksum_bytes;
        tersor::support::store_little_endian(
            tersor::lossless::checksum(std::span(bytes).first(head)), bytes.data() + head);
    }
    const tersor::test::GuardedBytes guarded(bytes);
    tersor::fuzz::check_lossless(guarded.bytes());
    return 0;
}
