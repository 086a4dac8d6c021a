#include "dispatch/cpu_features.hpp"

#include <cstdint>

#include "dispatch/architecture.hpp"

#if TERSOR_X86
#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#elif TERSOR_ARM64 && defined(__linux__)
#include <sys/auxv.h>
#endif

namespace tersor::dispatch {
namespace {

#if TERSOR_X86

struct Registers {
    std::uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0;
};

Registers cpuid(std::uint32_t leaf, std::uint32_t subleaf) noexcept {
    Registers r;
    if (__get_cpuid_count(leaf, subleaf, &r.eax, &r.ebx, &r.ecx, &r.edx) == 0) return {};
    return r;
}

/// XCR0: which register states the operating system saves at a context switch.
std::uint64_t enabled_states() noexcept {
    std::uint32_t low = 0;
    std::uint32_t high = 0;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (static_cast<std::uint64_t>(high) << 32) | low;
}

constexpr bool all(std::uint64_t value, std::uint64_t mask) noexcept {
    return (value & mask) == mask;
}

constexpr std::uint32_t bit(int n) noexcept { return std::uint32_t{1} << n; }

struct X86Features {
    bool avx2 = false;
    bool avx512 = false;
    bool amx = false;
};

constexpr long tile_data = 18;  // the state's number

/// Whether a process may ask for the state of tiles.
bool system_has_tiles() noexcept {
#if defined(__linux__) && defined(SYS_arch_prctl)
    constexpr long get_supported = 0x1021;  // ARCH_GET_XCOMP_SUPP
    std::uint64_t states = 0;
    return syscall(SYS_arch_prctl, get_supported, &states) == 0 && (states >> tile_data & 1) != 0;
#else
    return false;
#endif
}

bool ask_for_tiles() noexcept {
#if defined(__linux__) && defined(SYS_arch_prctl)
    constexpr long request_permission = 0x1023;  // ARCH_REQ_XCOMP_PERM
    return syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
#else
    return false;
#endif
}

X86Features detect() noexcept {
    X86Features features;
    const Registers basic = cpuid(1, 0);
    constexpr std::uint32_t fma = bit(12), popcnt = bit(23), osxsave = bit(27), avx = bit(28),
                            f16c = bit(29);
    if (!all(basic.ecx, fma | popcnt | osxsave | avx | f16c)) return features;
    const std::uint64_t states = enabled_states();
    constexpr std::uint64_t ymm_states = 0x6, zmm_states = 0xe6;
    if (!all(states, ymm_states)) return features;

    const Registers extended = cpuid(7, 0);
    const Registers amd = cpuid(0x80000001, 0);
    constexpr std::uint32_t lzcnt = bit(5), bmi1 = bit(3), avx2 = bit(5), bmi2 = bit(8);
    features.avx2 = all(extended.ebx, bmi1 | avx2 | bmi2) && all(amd.ecx, lzcnt);

    constexpr std::uint32_t f = bit(16), dq = bit(17), bw = bit(30), vl = bit(31);
    constexpr std::uint32_t vbmi = bit(1), vbmi2 = bit(6), gfni = bit(8), vnni = bit(11),
                            bitalg = bit(12), vpopcntdq = bit(14);
    features.avx512 = features.avx2 && all(states, zmm_states) &&
                      all(extended.ebx, f | dq | bw | vl) &&
                      all(extended.ecx, vbmi | vbmi2 | gfni | vnni | bitalg | vpopcntdq);

    constexpr std::uint32_t amx_tile = bit(24), amx_int8 = bit(25);
    constexpr std::uint64_t tile_states = 0x60000;
    features.amx = features.avx512 && all(states, tile_states) &&
                   all(extended.edx, amx_tile | amx_int8) && system_has_tiles();
    return features;
}

#endif

}  // namespace

bool machine_has(Isa isa) noexcept {
#if TERSOR_X86
    static const X86Features features = detect();
    if (isa == Isa::avx2) return features.avx2;
    if (isa == Isa::avx512) return features.avx512;
    if (isa == Isa::amx) return features.amx;
#endif
#if TERSOR_ARM64
    if (isa == Isa::neon) return true;  // Advanced SIMD is part of the architecture
#endif
    return isa == Isa::scalar;
}

namespace {
// When the library is loaded: what another thread is detecting at a fork would never be known in
// the child.
[[maybe_unused]] const bool detected_at_load = machine_has(Isa::scalar);
}  // namespace

bool enter([[maybe_unused]] Isa isa) noexcept {
#if TERSOR_X86
    if (isa == Isa::amx) return ask_for_tiles();
#endif
    return true;
}

bool has_dot_product() noexcept {
#if defined(__ARM_FEATURE_DOTPROD)
    return true;
#elif TERSOR_ARM64 && defined(__linux__)
    constexpr unsigned long asimddp = 1UL << 20;  // HWCAP_ASIMDDP
    return (getauxval(AT_HWCAP) & asimddp) != 0;
#else
    return false;
#endif
}

bool slow_bit_deposit() noexcept {
#if TERSOR_X86
    const Registers vendor = cpuid(0, 0);
    constexpr std::uint32_t amd = 0x68747541, hygon = 0x6f677948;  // "Auth", "Hygo"
    if (vendor.ebx != amd && vendor.ebx != hygon) return false;
    const std::uint32_t signature = cpuid(1, 0).eax;
    const std::uint32_t family = ((signature >> 8) & 15) + ((signature >> 20) & 255);
    return family < 0x19;
#else
    return false;
#endif
}

}  // namespace tersor::dispatch
