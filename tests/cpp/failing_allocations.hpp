// Operations without memory: each is run with its n-th allocation failing, for every n. It ends
// with an error that says so, leaves nothing behind, and works when it is tried again.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "isa_test.hpp"
#include "spmm_problem.hpp"
#include "tersor/spmm.hpp"

namespace tersor::test {

using Bytes = std::vector<std::uint8_t>;

/// What an operation came to, to be compared.
struct Outcome {
    std::vector<float> values;
    Bytes bytes;
    friend bool operator==(const Outcome&, const Outcome&) = default;
};

using Operation = std::function<Outcome()>;
/// Operations on things that are made for them: what a failure left of these is what they are
/// tried again on.
using MakeOperation = std::function<Operation()>;

/// Fails each allocation of an operation in turn, alone and with all that follow.
void fail_all(const MakeOperation& make);

/// Whether the allocations of this thread succeed. `constinit`: there is nothing to call before its
/// first use, which sanitizers of GCC 12 take for a null pointer.
extern constinit thread_local bool exempt;

/// Work runs on threads of its own.
class Allocation : public IsaTest {
protected:
    void SetUp() override;
    void TearDown() override;
};

[[nodiscard]] PackedMatrix packed_matrix(const Problem& p,
                                         LayoutHint layout_hint = LayoutHint::vector);
[[nodiscard]] std::vector<float> dense_of(const PackedMatrix& packed);

}  // namespace tersor::test
