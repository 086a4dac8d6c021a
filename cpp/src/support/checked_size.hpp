// Products of sizes that come from callers and from files: a product that wraps makes memory too
// small for what is written to it.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <optional>

namespace tersor::support {

/// No object has more bytes. Twice as much still is a std::size_t, so that a little may be added to
/// a product without another check.
inline constexpr std::uint64_t max_size = PTRDIFF_MAX;

/// Multiplies `size` by `factor`; false, and `size` as it was, where the product is more than
/// max_size.
[[nodiscard]] constexpr bool multiply_size(std::uint64_t& size, std::uint64_t factor) noexcept {
    if (size != 0 && factor > max_size / size) return false;
    size *= factor;
    return true;
}

/// The product, or nothing where it, or that of the first few factors, is more than max_size.
template <std::unsigned_integral... Factors>
[[nodiscard]] constexpr std::optional<std::size_t> checked_product(Factors... factors) noexcept {
    std::uint64_t product = 1;
    if (!(multiply_size(product, factors) && ...)) return std::nullopt;
    return static_cast<std::size_t>(product);
}

}  // namespace tersor::support
