#include "contexts/matrix.hpp"
#include "contexts/matrix_model.hpp"
#include "contexts/range_coder.hpp"

namespace tersor::contexts {

std::vector<std::uint8_t> encode_matrix(const Grouping& grouping, std::span<const float> values,
                                        std::span<std::uint8_t> codes) {
    const auto zeros = std::count(codes.begin(), codes.end(), std::uint8_t{0});
    std::vector<std::uint8_t> stream;
    Encoder encoder(stream);
    MatrixModel<Encoder> model(encoder, grouping, values,
                               codes.size() - static_cast<std::size_t>(zeros), codes);
    static_cast<void>(model.code());
    encoder.finish();
    return stream;
}

}  // namespace tersor::contexts
