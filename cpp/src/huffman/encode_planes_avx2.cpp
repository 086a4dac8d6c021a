// AVX2 and BMI2 kernel that encodes to the bit-sliced code: the bits of the indices leave by
// movemask, `pext` gathers the tail and the bits of the suffixes.
#include "huffman/planes_avx2.hpp"

#if TERSOR_X86

#include <cstring>

#include "dispatch/cpu_features.hpp"
#include "dispatch/target_avx2.hpp"

namespace tersor::huffman {
namespace {

/// Brings the bytes of a plane from the order of blocks into that of places: a transposition of
/// four rows of doublewords.
inline void store_in_places(const std::uint8_t* blocks, std::uint8_t* plane) noexcept {
    const __m128i join = _mm_setr_epi8(0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15);
    __m128i row[4];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
        row[i] = _mm_shuffle_epi8(_mm_load_si128(reinterpret_cast<const __m128i*>(blocks + 16 * i)),
                                  join);
    }
    const __m128i a = _mm_unpacklo_epi32(row[0], row[1]), b = _mm_unpackhi_epi32(row[0], row[1]);
    const __m128i c = _mm_unpacklo_epi32(row[2], row[3]), d = _mm_unpackhi_epi32(row[2], row[3]);
    auto* to = reinterpret_cast<__m128i*>(plane);
    _mm_storeu_si128(to, _mm_unpacklo_epi64(a, c));
    _mm_storeu_si128(to + 1, _mm_unpackhi_epi64(a, c));
    _mm_storeu_si128(to + 2, _mm_unpacklo_epi64(b, d));
    _mm_storeu_si128(to + 3, _mm_unpackhi_epi64(b, d));
}

/// All ones in the bytes of the 32 symbols that `bits` names.
inline __m256i bytes_of_bits(std::uint32_t bits) noexcept {
    const __m256i spread = _mm256_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2,
                                            2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3, 3, 3);
    const __m256i one = _mm256_set1_epi64x(static_cast<long long>(0x8040201008040201ULL));
    const __m256i present = _mm256_shuffle_epi8(_mm256_set1_epi32(static_cast<int>(bits)), spread);
    return _mm256_cmpeq_epi8(_mm256_and_si256(present, one), one);
}

/// Appends the symbols whose bytes of `later` are all ones.
inline std::uint8_t* append_tail(const std::uint8_t* symbols, __m256i later,
                                 std::uint8_t* tail) noexcept {
    alignas(32) std::uint64_t masks[4];
    _mm256_store_si256(reinterpret_cast<__m256i*>(masks), later);
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
        std::uint64_t eight;
        std::memcpy(&eight, symbols + 8 * i, 8);
        eight = _pext_u64(eight, masks[i]);
        std::memcpy(tail, &eight, 8);
        tail += __builtin_popcountll(masks[i]) / 8;
    }
    return tail;
}

/// `table_bits`: symbols are below 2^table_bits. The bits of the indices leave by movemask, the
/// highest first.
template <int table_bits, int suffixes, bool has_tail>
void encode_stage(const Stage& stage, const std::uint8_t* symbols, std::size_t superblocks,
                  const Lanes& lanes, std::uint8_t* bytes,
                  const std::array<std::uint8_t*, max_suffixes>& suffix, std::uint8_t* tail,
                  PlaneCursor& cursor) noexcept {
    const bool partial = lanes != all_lanes;
    const auto* present = reinterpret_cast<const std::uint8_t*>(lanes.data());
    const __m256i tail_index = _mm256_set1_epi8(static_cast<char>(stage.tail_index()));
    const __m128i to_top = _mm_cvtsi32_si128(8 - stage.bits());
    const auto planes = static_cast<std::size_t>(stage.planes);
    constexpr std::size_t rings = suffixes > 0 ? suffixes : 1;
    std::array<ClearDigits, rings> clear_digits;
    std::array<BitAppender, suffixes> out;
    for (std::size_t l = 0; l < suffixes; ++l) {
        clear_digits_of(stage, l, clear_digits[l]);
        out[l] = {suffix[l], cursor.suffix_bits[l]};
    }
    std::uint8_t* next = tail + cursor.tail;
    alignas(64) std::uint8_t in_blocks[max_stage_bits][plane_bytes];
    alignas(64) std::uint64_t rows[rings][superblock_groups];
    alignas(64) std::uint64_t going_on[rings][superblock_groups];
    for (std::size_t s = 0; s < superblocks; ++s, symbols += superblock_symbols) {
        for (std::size_t v = 0; v < plane_bytes / 4; ++v) {
            const __m256i symbol = load(symbols + 32 * v);
            __m256i index = look_up<table_bits>(stage.indices.data(), symbol);
            if (partial) {
                std::uint32_t here = 0;
                for (std::size_t i = 0; i < 4; ++i) {
                    here |= std::uint32_t{present[places[4 * v + i]]} << (8 * i);
                }
                index = _mm256_and_si256(index, bytes_of_bits(here));
            }
            if constexpr (has_tail) {
                next = append_tail(symbols + 32 * v, _mm256_cmpeq_epi8(index, tail_index), next);
            }
            index = _mm256_sll_epi16(index, to_top);
            for (std::size_t d = 0; d < planes + suffixes; ++d) {
                const int bits = _mm256_movemask_epi8(index);
                std::memcpy(in_blocks[d] + 4 * v, &bits, 4);
                index = _mm256_add_epi8(index, index);
            }
        }
        for (std::size_t d = 0; d < planes; ++d) {
            store_in_places(in_blocks[d], bytes + plane_bytes * d);
        }
        if constexpr (suffixes > 0) {
            for (int half = 0; half < 2; ++half) {
                __m256i lanes_of[suffixes];
                find_going_on<suffixes>(stage.planes, bytes + 32 * half,
                                        load(lanes.data() + 4 * half), clear_digits.data(),
                                        has_tail, lanes_of);
                for (std::size_t l = 0; l < suffixes; ++l)
                    store(going_on[l] + 4 * half, lanes_of[l]);
            }
            for (std::size_t l = 0; l < suffixes; ++l) {
                store_in_places(in_blocks[planes + l], reinterpret_cast<std::uint8_t*>(rows[l]));
            }
            std::array<BitAppender, suffixes> appenders = out;
#pragma GCC unroll 8
            for (std::size_t g = 0; g < superblock_groups; ++g) {
#pragma GCC unroll 3
                for (std::size_t l = 0; l < suffixes; ++l) {
                    const std::uint64_t alive = going_on[l][g];
                    appenders[l].append(_pext_u64(rows[l][g], alive),
                                        static_cast<unsigned>(__builtin_popcountll(alive)));
                }
            }
            out = appenders;
        }
        bytes += plane_bytes * planes;
    }
    for (std::size_t l = 0; l < suffixes; ++l) cursor.suffix_bits[l] = out[l].finish(suffix[l]);
    cursor.tail = static_cast<std::size_t>(next - tail);
}

using EncodeStage = decltype(&encode_stage<4, 0, false>);

template <int table_bits>
EncodeStage encoder(const Stage& stage) noexcept {
    switch (stage.suffixes) {
        case 0:
            return stage.tail ? encode_stage<table_bits, 0, true>
                              : encode_stage<table_bits, 0, false>;
        case 1:
            return stage.tail ? encode_stage<table_bits, 1, true>
                              : encode_stage<table_bits, 1, false>;
        case 2:
            return stage.tail ? encode_stage<table_bits, 2, true>
                              : encode_stage<table_bits, 2, false>;
        default:
            return stage.tail ? encode_stage<table_bits, 3, true>
                              : encode_stage<table_bits, 3, false>;
    }
}

void encode_planes(const Stage& stage, const std::uint8_t* symbols, std::size_t superblocks,
                   const Lanes& lanes, std::uint8_t* planes,
                   const std::array<std::uint8_t*, max_suffixes>& suffixes, std::uint8_t* tail,
                   PlaneCursor& cursor) noexcept {
    const EncodeStage encode = stage.last_symbol < 16   ? encoder<4>(stage)
                               : stage.last_symbol < 64 ? encoder<6>(stage)
                                                        : encoder<8>(stage);
    encode(stage, symbols, superblocks, lanes, planes, suffixes, tail, cursor);
}

}  // namespace

void install(dispatch::Level<Isa::avx2>, EncodeKernels& kernels) noexcept {
    // Where `pext` is microcode the portable kernel is faster.
    if (!dispatch::slow_bit_deposit()) kernels.encode_planes = encode_planes;
}

}  // namespace tersor::huffman

#include "dispatch/target_end.hpp"

#endif
