#include "tersor/isa.hpp"

#include <array>
#include <atomic>
#include <cstdlib>
#include <stdexcept>
#include <string>

#include "dispatch/architecture.hpp"
#include "dispatch/cpu_features.hpp"
#include "dispatch/level.hpp"

namespace tersor {
namespace {

constexpr std::array<std::string_view, isa_count> names = {
#define TERSOR_ISA(name, parent, summary) #name,
#include "tersor/isa.def"
#undef TERSOR_ISA
};

#if TERSOR_AMX
constexpr std::array compiled = {Isa::scalar, Isa::avx2, Isa::avx512, Isa::amx};
#elif TERSOR_AVX512
constexpr std::array compiled = {Isa::scalar, Isa::avx2, Isa::avx512};
#elif TERSOR_X86
constexpr std::array compiled = {Isa::scalar, Isa::avx2};
#elif TERSOR_ARM64
constexpr std::array compiled = {Isa::scalar, Isa::neon};
#else
constexpr std::array compiled = {Isa::scalar};
#endif

constexpr int undecided = -1;
std::atomic<int> level_in_use{undecided};

std::string available_names() {
    std::string list;
    for (const Isa isa : compiled) {
        if (!available(isa)) continue;
        if (!list.empty()) list += ", ";
        list += name(isa);
    }
    return list;
}

/// Without what has to be asked for.
Isa best_level() noexcept {
    Isa best = Isa::scalar;
    for (const Isa isa : compiled) {
        if (available(isa)) best = isa;
    }
    return best;
}

Isa first_choice() {
    if (const char* wanted = std::getenv("TERSOR_ISA"); wanted != nullptr && *wanted != '\0') {
        const std::optional<Isa> isa = isa_from_name(wanted);
        if (!isa.has_value() || !available(*isa) || !dispatch::enter(*isa)) {
            throw std::invalid_argument("TERSOR_ISA=" + std::string(wanted) +
                                        ": not a level of this machine; it has " +
                                        available_names());
        }
        return *isa;
    }
    for (auto isa = compiled.rbegin(); isa != compiled.rend(); ++isa) {
        if (available(*isa) && dispatch::enter(*isa)) return *isa;
    }
    return Isa::scalar;
}

}  // namespace

std::string_view name(Isa isa) noexcept { return names[static_cast<std::size_t>(isa)]; }

std::optional<Isa> isa_from_name(std::string_view name) noexcept {
    for (std::size_t i = 0; i < isa_count; ++i) {
        if (names[i] == name) return static_cast<Isa>(i);
    }
    return std::nullopt;
}

std::span<const Isa> compiled_isas() noexcept { return compiled; }

bool available(Isa isa) noexcept {
    for (const Isa candidate : compiled) {
        if (candidate == isa) return dispatch::machine_has(isa);
    }
    return false;
}

Isa isa_in_use() {
    int level = level_in_use.load(std::memory_order_relaxed);
    if (level == undecided) {
        level = static_cast<int>(first_choice());
        level_in_use.store(level, std::memory_order_relaxed);
    }
    return static_cast<Isa>(level);
}

Isa dispatch::level() noexcept {
    const int level = level_in_use.load(std::memory_order_relaxed);
    return level != undecided ? static_cast<Isa>(level) : best_level();
}

void use_isa(Isa isa) {
    if (!available(isa) || !dispatch::enter(isa)) {
        throw std::invalid_argument("instruction set '" + std::string(name(isa)) +
                                    "' is not available; this machine has " + available_names());
    }
    level_in_use.store(static_cast<int>(isa), std::memory_order_relaxed);
}

}  // namespace tersor
