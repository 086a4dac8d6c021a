// AMX: tiles of weights, expanded to bytes, against tiles of activations.
//
// The unit multiplies 16 vectors by 64 columns with 64 columns by 16 rows in 16 cycles, 32 times as
// many products as fp32 arithmetic: so many that leaving out those with pruned weights would not
// pay. While it does, the next tile of weights is expanded. The sums of some tiles of vectors stay
// in tile registers while all columns pass.
//
// Bottleneck: loads of tiles, one in .7 cycles of the unit's 16 for a product; `high` takes 3,600
// us for 4096 -> 4096 and 64 vectors, products alone 2,600.
#include "dispatch/architecture.hpp"
#include "spmm/tiles/kernels.hpp"

#if TERSOR_AMX

#include <immintrin.h>

#include <algorithm>
#include <array>
#include <type_traits>
#include <utility>

#include "dispatch/target_amx.hpp"

#include "spmm/tiles/expand_amx.hpp"

namespace tersor::spmm::tiles {
namespace {

/// Steps by which expanding is ahead of multiplying: what was stored has then reached the cache.
constexpr std::size_t steps_ahead = 2;

/// Columns after which 32-bit sums are folded into double ones. Up to three products are added in
/// one sum.
constexpr std::size_t fold_blocks = 256;
static_assert(fold_blocks * tile_columns * 3 * 255 * 128 < (std::size_t{1} << 31));

/// Bytes of activations that stay in the second cache while rows of tiles pass over them.
constexpr std::size_t resident_bytes = std::size_t{1} << 20;

/// The shapes of tiles, as `ldtilecfg` reads them.
struct alignas(64) TileShapes {
    std::uint8_t palette = 1;
    std::uint8_t start_row = 0;
    std::array<std::uint8_t, 14> reserved{};
    std::array<std::uint16_t, 16> row_bytes{};
    std::array<std::uint8_t, 16> rows{};
};

constexpr int most_sums = 6;  // tile registers 0 to 5; 6 holds activations, 7 weights

void set_shapes(std::size_t vectors) noexcept {
    TileShapes shapes;
    for (std::size_t t = 0; t < 8; ++t) {
        shapes.row_bytes[t] = 64;
        shapes.rows[t] = static_cast<std::uint8_t>(t < 7 ? vectors : tile_masks);
    }
    _tile_loadconfig(&shapes);
}

template <int sum>
void clear_sum() noexcept {
    if constexpr (sum == 0) _tile_zero(0);
    if constexpr (sum == 1) _tile_zero(1);
    if constexpr (sum == 2) _tile_zero(2);
    if constexpr (sum == 3) _tile_zero(3);
    if constexpr (sum == 4) _tile_zero(4);
    if constexpr (sum == 5) _tile_zero(5);
}

/// The sum += activations * weights.
template <int sum>
void add_product() noexcept {
    if constexpr (sum == 0) _tile_dpbusd(0, 6, 7);
    if constexpr (sum == 1) _tile_dpbusd(1, 6, 7);
    if constexpr (sum == 2) _tile_dpbusd(2, 6, 7);
    if constexpr (sum == 3) _tile_dpbusd(3, 6, 7);
    if constexpr (sum == 4) _tile_dpbusd(4, 6, 7);
    if constexpr (sum == 5) _tile_dpbusd(5, 6, 7);
}

template <int sum>
void store_sum(std::int32_t* to) noexcept {
    if constexpr (sum == 0) _tile_stored(0, to, 64);
    if constexpr (sum == 1) _tile_stored(1, to, 64);
    if constexpr (sum == 2) _tile_stored(2, to, 64);
    if constexpr (sum == 3) _tile_stored(3, to, 64);
    if constexpr (sum == 4) _tile_stored(4, to, 64);
    if constexpr (sum == 5) _tile_stored(5, to, 64);
}

/// Calls `body` with the numbers from 0 to count - 1 as constants.
template <int count, class Body>
void for_constants(const Body& body) noexcept {
    [&]<int... i>(std::integer_sequence<int, i...>) {
        (body(std::integral_constant<int, i>()), ...);
    }(std::make_integer_sequence<int, count>());
}

template <int x_limbs, int w_limbs, int lowest>
class Product {
    static constexpr std::size_t ring = steps_ahead + 1;

public:
    static constexpr int places = x_limbs + w_limbs - 1 - lowest;
    /// Tiles of vectors whose sums are kept in registers.
    static constexpr int most_tiles = places == 1 ? 4 : places <= most_sums / 2 ? 2 : 1;

    Product(const Tiles& layout, const Limbs& weights, const TileActivations& x) noexcept
        : layout_(layout), x_(x), lookup_(layout, weights) {}

    /// The sums of a group over the blocks [begin, end), for `count` tiles of vectors from `tile`.
    void add_blocks(Position& position, std::size_t tile, std::size_t count, std::size_t begin,
                    std::size_t end, std::int32_t* sums) noexcept {
        for_constants<most_tiles>([&](auto less) {
            if (count == less + 1) sum_of<less + 1>(position, tile, begin, end, sums);
        });
    }

private:
    template <int tiles>
    void sum_of(Position& position, std::size_t tile, std::size_t begin, std::size_t end,
                std::int32_t* sums) noexcept {
        const std::size_t stride = layout_.blocks * x_limbs * tile_bytes;
        const std::uint8_t* x = x_.limbs + tile * stride + begin * x_limbs * tile_bytes;
        for_constants<places * tiles>([](auto sum) { clear_sum<sum>(); });
        const std::size_t steps = end - begin;
        const auto ring_at = [&](std::size_t step) {
            return tiles_ + step % ring * w_limbs * tile_bytes;
        };
        Pending pending{};
        std::size_t expanded = 0;
        const auto prepare = [&] {
            if (expanded % look_up_steps == 0) {
                pending = lookup_.next(position, std::min(look_up_steps, steps - expanded));
            }
        };
        for (; expanded < std::min(steps_ahead, steps); ++expanded) {
            prepare();
            pending.expand<w_limbs>(ring_at(expanded), 0, tile_masks);
        }
        for (std::size_t s = 0; s < steps; ++s, x += x_limbs * tile_bytes) {
            if (expanded < steps) {
                prepare();
                pending = multiply<tiles, true>(x, stride, ring_at(s), ring_at(expanded), pending);
                ++expanded;
            } else {
                multiply<tiles, false>(x, stride, ring_at(s), nullptr, pending);
            }
        }
        for_constants<places * tiles>([&](auto sum) { store_sum<sum>(sums + sum * 256); });
    }

    /// One product of tiles: limb p of x, limb q of the weights. What the product before had is
    /// not loaded again.
    struct Term {
        int p;
        int q;
        int tile;
        bool loads_x;
        bool loads_w;
    };

    /// The products of one tile of weights, a limb of them after the other: each begins with the
    /// activations that the one before ended with. Loads are the limit, and this order has fewer
    /// of them than others, as one that loads activations once.
    template <int tiles>
    static constexpr auto terms_of() noexcept {
        constexpr int count = [] {
            int n = 0;
            for (int p = 0; p < x_limbs; ++p) {
                for (int q = 0; q < w_limbs; ++q) n += p + q >= lowest ? tiles : 0;
            }
            return n;
        }();
        std::array<Term, count> terms{};
        std::size_t at = 0;
        int last_p = -1;
        int last_tile = 0;
        for (int q = 0; q < w_limbs; ++q) {
            const int first_p = last_p;
            bool loads_w = true;
            for (const bool again : {true, false}) {
                for (int p = x_limbs - 1; p >= 0 && p + q >= lowest; --p) {
                    if ((p == first_p) != again) continue;
                    const bool forth = last_tile == 0;
                    for (int i = 0; i < tiles; ++i) {
                        const int tile = forth ? i : tiles - 1 - i;
                        const bool loads_x = p != last_p || tile != last_tile;
                        terms[at++] = {p, q, tile, loads_x, loads_w};
                        last_p = p;
                        last_tile = tile;
                        loads_w = false;
                    }
                }
            }
        }
        return terms;
    }

    /// All products of limbs that count, of one tile of weights; between them a later one is
    /// expanded, for the processor finds no other work while tile registers are taken.
    template <int tiles, bool expands>
    static Pending multiply(const std::uint8_t* x, std::size_t stride, const std::uint8_t* w,
                            std::uint8_t* next, Pending pending) noexcept {
        // GCC takes the loads below for ones that read no memory.
        __asm__ volatile("" ::: "memory");
        constexpr auto terms = terms_of<tiles>();
        constexpr int count = static_cast<int>(terms.size());
        for_constants<count>([&](auto i) {
            constexpr Term term = terms[static_cast<std::size_t>(int{i})];
            if constexpr (term.loads_w) _tile_loadd(7, w + term.q * tile_bytes, 64);
            if constexpr (term.loads_x) {
                _tile_loadd(6, x + term.tile * stride + term.p * tile_bytes, 64);
            }
            add_product<(term.p + term.q - lowest) * tiles + term.tile>();
            if constexpr (expands) {
                pending.expand<w_limbs>(next, tile_masks * i / count, tile_masks * (i + 1) / count);
            }
        });
        return pending;
    }

    const Tiles& layout_;
    const TileActivations& x_;
    Lookup<w_limbs> lookup_;
    alignas(64) std::uint8_t tiles_[ring * w_limbs * tile_bytes];
};

/// Some tiles of vectors, and the groups of rows that pass over them.
struct Part {
    std::size_t tile;
    std::size_t tiles;
    std::size_t group;
    std::size_t groups;
};

/// Adds the sums up to the totals, or where these are the last ones writes the products:
/// y = totals * unit + low * row_sums + bias.
template <int places>
void fold(const TileActivations& x, const TileOutputs& out, double w_unit, TileWork work,
          const Part& part, bool first, bool last) noexcept {
    const __m512d base = _mm512_set1_pd(256.0);
    const std::size_t sums_size = places * part.tiles * tile_vectors * group_rows;
    const std::size_t end = std::min(x.vectors, (part.tile + part.tiles) * tile_vectors);
    for (std::size_t n = part.tile * tile_vectors; n < end; ++n) {
        const std::size_t v = n - part.tile * tile_vectors;
        const __m512d unit = _mm512_set1_pd(w_unit * x.units[n]);
        const __m512d low = _mm512_set1_pd(x.lows[n]);
        for (std::size_t i = 0; i < 2 * part.groups; ++i) {
            const std::size_t row = part.group * group_rows + 8 * i;
            if (row >= out.rows) break;
            const std::int32_t* sums = work.sums + i / 2 * sums_size + v * group_rows + i % 2 * 8;
            const auto place = [&](int l) {
                const std::int32_t* at =
                    sums + static_cast<std::size_t>(l) * part.tiles * tile_vectors * group_rows;
                return _mm512_cvtepi32_pd(_mm256_load_si256(reinterpret_cast<const __m256i*>(at)));
            };
            __m512d sum = place(places - 1);
            for (int l = places - 2; l >= 0; --l) sum = _mm512_fmadd_pd(sum, base, place(l));
            double* total = work.totals + (v * groups_at_once * 2 + i) * 8;
            if (!first) sum = _mm512_add_pd(sum, _mm512_load_pd(total));
            if (!last) {
                _mm512_store_pd(total, sum);
                continue;
            }
            const std::size_t pending = out.rows - row;
            const auto valid = static_cast<__mmask8>(pending < 8 ? (1U << pending) - 1 : 0xff);
            const __m512d offset =
                _mm512_mul_pd(_mm512_maskz_loadu_pd(valid, out.row_sums + row), low);
            __m256 product = _mm512_cvtpd_ps(_mm512_fmadd_pd(sum, unit, offset));
            if (out.bias != nullptr) {
                product = _mm256_add_ps(product, _mm256_maskz_loadu_ps(valid, out.bias + row));
            }
            _mm256_mask_storeu_ps(out.y + n * out.rows + row, valid, product);
        }
    }
}

template <int x_limbs, int w_limbs, int lowest>
void multiply_with(const Tiles& layout, const Limbs& weights, const TileActivations& x,
                   const TileOutputs& out, TileWork work, std::size_t group_begin,
                   std::size_t group_end) noexcept {
    using Kernel = Product<x_limbs, w_limbs, lowest>;
    constexpr double lowest_unit = lowest == 0 ? 1.0 : lowest == 1 ? 256.0 : 65536.0;
    Kernel product(layout, weights, x);
    set_shapes(std::min(x.vectors, tile_vectors));
    Part part{0, 0, group_begin, group_end - group_begin};
    for (; part.tile < x.tiles(); part.tile += part.tiles) {
        part.tiles = std::min<std::size_t>(Kernel::most_tiles, x.tiles() - part.tile);
        const std::size_t sums_size = Kernel::places * part.tiles * tile_vectors * group_rows;
        const std::size_t step = std::clamp<std::size_t>(
            resident_bytes / (part.tiles * x_limbs * tile_bytes), look_up_steps, fold_blocks);
        Position positions[groups_at_once];
        for (std::size_t g = 0; g < part.groups; ++g) {
            positions[g] = {layout.masks.data() + (group_begin + g) * layout.blocks * tile_masks,
                            layout.starts[group_begin + g]};
        }
        for (std::size_t b = 0; b < layout.blocks; b += step) {
            const std::size_t end = std::min(layout.blocks, b + step);
            for (std::size_t g = 0; g < part.groups; ++g) {
                product.add_blocks(positions[g], part.tile, part.tiles, b, end,
                                   work.sums + g * sums_size);
            }
            fold<Kernel::places>(x, out, weights.unit * lowest_unit, work, part, b == 0,
                                 end == layout.blocks);
        }
    }
    _tile_release();
}

void multiply(const Tiles& layout, const Limbs& weights, Arithmetic arithmetic,
              const TileActivations& x, const TileOutputs& out, TileWork work,
              std::size_t group_begin, std::size_t group_end) noexcept {
    const auto run =
        with_arithmetic(arithmetic, []<int x_limbs, int w_limbs, int lowest>() noexcept {
            return multiply_with<x_limbs, w_limbs, lowest>;
        });
    run(layout, weights, x, out, work, group_begin, group_end);
}

}  // namespace

void install(dispatch::Level<Isa::amx>, Kernels& kernels) noexcept { kernels.multiply = multiply; }

}  // namespace tersor::spmm::tiles

#include "dispatch/target_end.hpp"

#endif
