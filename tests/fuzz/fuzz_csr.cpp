// Any codes, gaps and row lengths: `validate` and `pack` agree, and what they accept decodes to the
// matrix that packing holds.
#include <bit>
#include <cstdlib>
#include <vector>

#include "tersor/csr.hpp"
#include "tersor/isa.hpp"
#include "tersor/spmm.hpp"

namespace {

constexpr std::size_t header = 5;
constexpr std::size_t max_weights = std::size_t{1} << 20;

/// Rows, columns (12 bits each), index width, flat; row lengths; then codes and gaps, as many.
tersor::RelativeCsr read(std::span<const std::uint8_t> bytes) {
    tersor::RelativeCsr csr;
    csr.rows = bytes[0] | (bytes[1] & 15U) << 8;
    csr.cols = bytes[2] | (bytes[3] & 15U) << 8;
    csr.index_bits = bytes[4] & 15;
    csr.flat = (bytes[4] & 16) != 0;
    std::span<const std::uint8_t> rest = bytes.subspan(header);
    const std::size_t lengths = csr.flat ? 0 : std::min<std::size_t>(csr.rows, rest.size());
    csr.row_lengths.assign(rest.begin(), rest.begin() + static_cast<std::ptrdiff_t>(lengths));
    rest = rest.subspan(lengths);
    const auto codes = rest.first(rest.size() / 2);
    csr.codes.assign(codes.begin(), codes.end());
    const auto gaps = rest.subspan(codes.size());
    csr.gaps.assign(gaps.begin(), gaps.end());
    return csr;
}

void require(bool good) {
    if (!good) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size < header) return 0;
    const tersor::RelativeCsr csr = read({data, size});
    const tersor::Result valid = tersor::csr::validate(csr);
    std::vector<float> codebook(256);
    for (std::size_t i = 1; i < codebook.size(); ++i) codebook[i] = static_cast<float>(i);
    const std::size_t weights = std::size_t{csr.rows} * csr.cols;
    for (const tersor::Isa isa : tersor::compiled_isas()) {
        if (!tersor::available(isa)) continue;
        tersor::use_isa(isa);
        for (const tersor::LayoutHint layout_hint :
             {tersor::LayoutHint::vector, tersor::LayoutHint::batch}) {
            tersor::PackedMatrix packed;
            const tersor::Result result = tersor::spmm::pack(csr, codebook, packed, layout_hint);
            require(result.ok() == valid.ok());
            if (!valid.ok() || weights > max_weights) continue;
            require(packed.nonzeros() == valid.count);
            std::vector<std::uint8_t> codes(weights);
            require(tersor::csr::decode(csr, codes).ok());
            std::vector<float> dense(weights);
            packed.unpack(dense);
            for (std::size_t i = 0; i < weights; ++i) require(dense[i] == codebook[codes[i]]);
            const std::vector<float> x(std::size_t{3} * csr.cols, 1.0F);
            std::vector<float> y(std::size_t{3} * csr.rows);
            tersor::spmm::multiply(packed, x, 3, {}, y);
        }
    }
    return 0;
}
