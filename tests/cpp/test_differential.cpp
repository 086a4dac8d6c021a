// Every kernel of every level on one input, against double precision: random shapes, and codebooks
// and activations with heavy tails, which stretch the fixed-point scales. TERSOR_DIFFERENTIAL says
// how many inputs. Prints, for each kernel, the largest error beside its bound.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <stdexcept>
#include <string>

#include "isa_test.hpp"
#include "spmm/fixed_point.hpp"
#include "spmm/sell/layout.hpp"
#include "spmm_problem.hpp"
#include "tersor/spmm.hpp"

namespace tersor {
namespace {

using test::Problem;

constexpr unsigned default_inputs = 40;

/// Values of a distribution: normal, Cauchy (no mean) or lognormal (positive, with a long tail).
float draw(int distribution, std::mt19937& generator) {
    switch (distribution) {
        case 0: return std::normal_distribution<float>()(generator);
        case 1: return std::cauchy_distribution<float>()(generator);
        default: return std::lognormal_distribution<float>(0.0F, 2.0F)(generator);
    }
}

/// Whole multiples of a step, as 8-bit integers have them, and two far beyond.
std::vector<float> integer_codebook(int values, std::mt19937& generator) {
    const float step = 1e-3F + std::abs(std::normal_distribution<float>()(generator));
    std::vector<float> codebook = {0.0F, 300.0F * step, -500.0F * step};
    for (int i = 0; i < values - 2; ++i) {
        const int multiple = i / 2 + 1;
        codebook.push_back(static_cast<float>(i % 2 == 0 ? multiple : -multiple) * step);
    }
    return codebook;
}

struct Input {
    Problem problem;
    double largest_in_limbs;  // weight: of integers, outliers are apart
    std::size_t batch;
    std::vector<float> x;
};

Input random_input(unsigned seed) {
    std::mt19937 generator(seed);
    const auto below = [&](unsigned n) { return static_cast<unsigned>(generator() % n); };
    constexpr int codebooks[] = {1, 7, 15, 16, 63, 64, 255};
    std::vector<float> codebook = {0.0F};
    const int values = codebooks[below(std::size(codebooks))];
    const unsigned of_weights = below(4);
    const bool integers = of_weights == 3 && values > 16;
    if (integers) {
        codebook = integer_codebook(values, generator);
    } else {
        for (int i = 0; i < values; ++i) {
            codebook.push_back(draw(static_cast<int>(of_weights % 3), generator));
        }
    }
    constexpr double densities[] = {0.01, 0.09, 0.3, 1.0};
    const double density = densities[below(4)];
    double largest = 0.0;
    for (std::size_t c = integers && density == 1.0 ? 3 : 0; c < codebook.size(); ++c) {
        largest = std::max(largest, std::abs(double{codebook[c]}));
    }
    Input input{test::make_problem(1 + below(90), 1 + below(600), density, codebook, seed),
                largest,
                1 + below(70),
                {}};
    const int of_x = static_cast<int>(below(3));
    input.x.resize(input.batch * input.problem.cols);
    for (float& v : input.x) v = draw(of_x, generator);
    return input;
}

/// The sums that the bounds are made of, for each vector and row.
struct Reference {
    std::vector<double> y;           // [batch, rows]
    std::vector<double> magnitudes;  // sum |w||x|
    std::vector<double> weights;     // [rows]: sum |w|
    std::vector<double> nonzeros;    // [rows]
    std::vector<double> largest_x;   // [batch]
};

Reference reference_of(const Input& input) {
    const Problem& p = input.problem;
    const std::size_t batch = input.batch;
    const std::vector<float>& x = input.x;
    Reference ref;
    ref.weights.resize(p.rows);
    ref.nonzeros.resize(p.rows);
    for (std::size_t i = 0; i < p.dense.size(); ++i) {
        const double w = std::abs(double{p.dense[i]});
        ref.weights[i / p.cols] += w;
        ref.nonzeros[i / p.cols] += w != 0.0 ? 1.0 : 0.0;
    }
    for (std::size_t n = 0; n < batch; ++n) {
        double largest = 0.0;
        for (std::size_t k = 0; k < p.cols; ++k) {
            largest = std::max(largest, std::abs(double{x[n * p.cols + k]}));
        }
        ref.largest_x.push_back(largest);
        for (std::size_t r = 0; r < p.rows; ++r) {
            double sum = 0.0, magnitude = 0.0;
            for (std::size_t k = 0; k < p.cols; ++k) {
                const double product = double{p.dense[r * p.cols + k]} * x[n * p.cols + k];
                sum += product;
                magnitude += std::abs(product);
            }
            ref.y.push_back(sum);
            ref.magnitudes.push_back(magnitude);
        }
    }
    return ref;
}

/// docs/kernels: roundings of fp32, relative to the terms themselves.
double float_bound(const Reference& ref, std::size_t n, std::size_t r, std::size_t rows) {
    const double terms = ref.nonzeros[r];
    const double c = 4.0 + std::min(terms, 256.0) / 2.0 + terms / 32.0;
    return c * 0x1p-23 * ref.magnitudes[n * rows + r] + terms * 0x1p-149;
}

/// What the limbs leave of x and of the weights, the products that are dropped, and the roundings
/// of fp32 around them; R, the range of x, is at most 2 max|x|.
double fixed_bound(const Reference& ref, double largest_weight, spmm::Arithmetic arithmetic,
                   int bits, std::size_t n, std::size_t r) {
    const double base = std::ldexp(1.0, bits);
    const double range = 2.0 * ref.largest_x[n];
    const double x_unit = range / (std::pow(base, arithmetic.x_limbs) - 1.0);
    const double w_unit = largest_weight / (127.0 * std::pow(base, arithmetic.w_limbs - 1));
    double dropped = 0.0;
    for (int p = 0; p < arithmetic.x_limbs; ++p) {
        for (int q = 0; p + q < arithmetic.lowest && q < arithmetic.w_limbs; ++q) {
            dropped += (base - 1.0) * (base / 2.0) * std::pow(base, p + q) * x_unit * w_unit;
        }
    }
    const double of_each = 0.5 * w_unit * range + dropped;
    return ref.nonzeros[r] * of_each +
           ref.weights[r] * (0.5 * x_unit + spmm::fixed_roundings * range) +
           ref.nonzeros[r] * 0x1p-149;
}

std::optional<spmm::Arithmetic> arithmetic_of(std::string_view kernel) {
    if (kernel == "limb_panels") return spmm::Arithmetic{1, 1, 0};
    const auto at = kernel.find('_');
    if (at == std::string_view::npos) return std::nullopt;
    const int x = kernel[at + 1] - '0', w = kernel[at + 3] - '0';
    return spmm::Arithmetic{x, w, kernel.ends_with("_short") ? std::min(x, w) - 1 : 0};
}

/// The largest error as a part of its bound, by kernel and level.
using Worst = std::map<std::string, double>;

void run_kernels(const Input& input, const Reference& ref, Isa isa, Worst& worst) {
    const Problem& p = input.problem;
    for (const auto& kernel : spmm::kernel_list()) {
        if (kernel.isa != isa) continue;
        const std::string name = std::string(kernel.name) + " " + std::string(tersor::name(isa));
        PackedMatrix packed;
        ASSERT_TRUE(spmm::pack(p.csr, p.codebook, packed, kernel.layout_hint).ok());
        std::vector<float> y(input.batch * p.rows, -1.0F);
        try {
            spmm::multiply_by(kernel.name, packed, input.x, input.batch, y, 2);
        } catch (const std::invalid_argument&) {
            continue;  // the matrix does not have this layout, or a vector does not fit it
        }
        const auto arithmetic = arithmetic_of(kernel.name);
        for (std::size_t n = 0; n < input.batch; ++n) {
            for (std::size_t r = 0; r < p.rows; ++r) {
                const std::size_t at = n * p.rows + r;
                const int bits = spmm::sell_shape(isa).limb_bits;
                double bound = float_bound(ref, n, r, p.rows);
                if (arithmetic.has_value() && *arithmetic != spmm::finest_arithmetic) {
                    bound = fixed_bound(ref, input.largest_in_limbs, *arithmetic, bits, n, r) +
                            0x1p-23 * std::abs(ref.y[at]);
                }
                const double error = std::abs(double{y[at]} - ref.y[at]);
                ASSERT_LE(error, bound) << name << ", vector " << n << ", row " << r;
                if (bound > 0.0) worst[name] = std::max(worst[name], error / bound);
            }
        }
    }
}

TEST(Differential, EveryKernelOfEveryLevelMeetsItsBound) {
    const char* wanted = std::getenv("TERSOR_DIFFERENTIAL");
    const unsigned inputs =
        wanted != nullptr ? static_cast<unsigned>(std::atoi(wanted)) : default_inputs;
    ASSERT_GT(inputs, 0U);
    const Isa before = isa_in_use();
    Worst worst;
    for (unsigned seed = 1; seed <= inputs && !HasFatalFailure(); ++seed) {
        SCOPED_TRACE("seed " + std::to_string(seed));
        const Input input = random_input(seed);
        const Reference ref = reference_of(input);
        for (const Isa isa : test::isas_to_test()) {
            use_isa(isa);
            run_kernels(input, ref, isa, worst);
        }
    }
    use_isa(before);
    for (const auto& [kernel, part] : worst) {
        std::printf("[  ERROR   ] %-26s %8.5f of its bound\n", kernel.c_str(), part);
    }
    EXPECT_GE(worst.size(), 3U);  // at least gather, csr16 and panels of one level
}

}  // namespace
}  // namespace tersor
