// Convolutions term by term, as the definition has them, and geometries to try.
#pragma once

#include <cmath>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "spmm_problem.hpp"
#include "tersor/conv.hpp"

namespace tersor::test {

struct ConvCase {
    conv::Geometry geometry;
    std::uint32_t filters = 1;
    double density = 1.0;
};

inline std::string describe(const ConvCase& c) {
    const conv::Geometry& g = c.geometry;
    const auto pair = [](conv::Pair p) { return std::to_string(p.h) + "x" + std::to_string(p.w); };
    return std::to_string(g.in_channels) + " channels in " + std::to_string(g.groups) +
           " groups to " + std::to_string(c.filters) + ", input " + pair(g.input) + " kernel " +
           pair(g.kernel) + " stride " + pair(g.stride) + " padding " + pair(g.padding) +
           " dilation " + pair(g.dilation) + " density " + std::to_string(c.density);
}

struct ConvReference {
    double value = 0.0;
    double magnitude = 0.0;  // sum |w||x|
    double weights = 0.0;    // sum |w|, padding or not
    double largest = 0.0;    // |x| of the image
    int terms = 0;
};

/// One output.
inline ConvReference conv_reference(const Problem& p, const conv::Geometry& g,
                                    const std::vector<float>& x, std::size_t image,
                                    std::uint32_t row, std::uint32_t oh, std::uint32_t ow) {
    const std::uint32_t channels = g.in_channels / g.groups;
    const std::uint32_t first_channel = row / (p.rows / g.groups) * channels;
    ConvReference sum;
    for (std::uint32_t c = 0; c < channels; ++c) {
        for (std::uint32_t kh = 0; kh < g.kernel.h; ++kh) {
            for (std::uint32_t kw = 0; kw < g.kernel.w; ++kw) {
                const std::int64_t h =
                    std::int64_t{oh} * g.stride.h + kh * g.dilation.h - std::int64_t{g.padding.h};
                const std::int64_t w =
                    std::int64_t{ow} * g.stride.w + kw * g.dilation.w - std::int64_t{g.padding.w};
                const std::size_t column = (std::size_t{c} * g.kernel.h + kh) * g.kernel.w + kw;
                const double weight = p.dense[std::size_t{row} * p.cols + column];
                sum.weights += std::abs(weight);
                if (weight == 0.0 || h < 0 || w < 0 || h >= g.input.h || w >= g.input.w) continue;
                const std::size_t plane = image * g.in_channels + first_channel + c;
                const double value =
                    x[(plane * g.input.h + static_cast<std::size_t>(h)) * g.input.w +
                      static_cast<std::size_t>(w)];
                sum.value += weight * value;
                sum.magnitude += std::abs(weight * value);
                ++sum.terms;
            }
        }
    }
    const std::size_t size = std::size_t{g.in_channels} * g.input.h * g.input.w;
    for (std::size_t i = image * size; i < (image + 1) * size; ++i) {
        sum.largest = std::max(sum.largest, std::abs(double{x[i]}));
    }
    return sum;
}

/// A geometry whose kernel fits its padded input.
inline ConvCase random_conv_case(std::mt19937& generator) {
    const auto draw = [&](std::uint32_t low, std::uint32_t high) {
        return low + static_cast<std::uint32_t>(generator() % (high - low + 1));
    };
    const auto often_one = [&](std::uint32_t high) {
        return draw(0, 2) > 0 ? std::uint32_t{1} : draw(1, high);
    };
    ConvCase c;
    conv::Geometry& g = c.geometry;
    g.groups = often_one(4);
    g.in_channels = g.groups * draw(1, 9);
    c.filters = g.groups * draw(1, 5);
    c.density = static_cast<double>(draw(0, 10)) / 10.0;
    const auto draw_axis = [&](std::uint32_t& input, std::uint32_t& kernel, std::uint32_t& stride,
                               std::uint32_t& padding, std::uint32_t& dilation) {
        kernel = draw(1, 5);
        stride = often_one(4);
        padding = draw(0, kernel);
        dilation = often_one(3);
        const std::uint32_t reach = dilation * (kernel - 1) + 1;
        const std::uint32_t least = reach > 2 * padding ? reach - 2 * padding : 1;
        input = least + draw(0, draw(0, 3) > 0 ? 20 : 50);
    };
    draw_axis(g.input.h, g.kernel.h, g.stride.h, g.padding.h, g.dilation.h);
    draw_axis(g.input.w, g.kernel.w, g.stride.w, g.padding.w, g.dilation.w);
    return c;
}

}  // namespace tersor::test
