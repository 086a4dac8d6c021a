// Objects that hold nothing: made so, or moved from.
#include <gtest/gtest.h>

#include <filesystem>
#include <stdexcept>
#include <utility>

#include "spmm_problem.hpp"
#include "tersor/container.hpp"
#include "tersor/conv.hpp"
#include "tersor/pack_layer.hpp"

namespace tersor {
namespace {

void expect_empty(const PackedMatrix& matrix) {
    EXPECT_EQ(matrix.rows(), 0U);
    EXPECT_EQ(matrix.cols(), 0U);
    EXPECT_EQ(matrix.nonzeros(), 0U);
    EXPECT_EQ(matrix.codebook_size(), 0U);
    EXPECT_EQ(matrix.isa(), Isa::scalar);
    std::vector<float> none;
    EXPECT_NO_THROW(matrix.unpack(none));
    for (const Precision precision : {Precision::highest, Precision::low}) {
        EXPECT_NO_THROW(spmm::multiply(matrix, none, 3, {}, none, precision, 2));
    }
    std::vector<float> one(1);
    EXPECT_THROW(spmm::multiply(matrix, one, 1, {}, none), std::invalid_argument);
    EXPECT_THROW(matrix.unpack(one), std::invalid_argument);
    EXPECT_THROW(static_cast<void>(matrix.with_codebook(one)), std::invalid_argument);
    EXPECT_THROW(spmm::sum_by_code(matrix, none, none, 0, 0, 0, none), std::invalid_argument);
    EXPECT_THROW(conv::convolve(matrix, {.input = {1, 1}}, one, 1, {}, none),
                 std::invalid_argument);
    for (const spmm::KernelInfo& kernel : spmm::kernel_list()) {
        EXPECT_NO_THROW(spmm::multiply_by(kernel.name, matrix, none, 2, none)) << kernel.name;
    }
    EXPECT_EQ(matrix.transposed().rows(), 0U);
    EXPECT_LT(matrix.nbytes(), 1024U);
}

TEST(EmptyMatrix, HasNothing) { expect_empty(PackedMatrix()); }

TEST(EmptyMatrix, IsWhatIsMovedFromAndMayBeFilledAgain) {
    const test::Problem p = test::make_problem(4, 5, 0.5, 3, 1);
    PackedMatrix matrix;
    ASSERT_TRUE(spmm::pack(p.csr, p.codebook, matrix).ok());
    PackedMatrix other = std::move(matrix);
    expect_empty(matrix);  // NOLINT(bugprone-use-after-move): that is what is tested
    EXPECT_EQ(other.rows(), 4U);
    matrix = std::move(other);
    EXPECT_EQ(matrix.rows(), 4U);
    expect_empty(other);  // NOLINT(bugprone-use-after-move)
}

TEST(EmptyMatrix, IsWhatAFailureLeaves) {
    const std::vector<std::uint8_t> nonsense(40);
    PackedMatrix matrix;
    EXPECT_FALSE(pack_layer(nonsense, matrix).ok());
    expect_empty(matrix);
}

void expect_closed(const File& file) {
    EXPECT_TRUE(file.tensors().empty());
    EXPECT_EQ(file.find("x"), nullptr);
    EXPECT_TRUE(file.metadata().empty());
    EXPECT_EQ(file.file_bytes(), 0U);
    EXPECT_FALSE(file.is_tersor());
    EXPECT_TRUE(file.verify().ok());
    const TensorView view;
    file.release(view);
    EXPECT_THROW(static_cast<void>(file.verify(view)), std::invalid_argument);
}

/// Two files of one tensor each, of the same name and larger than a page.
class Files : public ::testing::Test {
protected:
    Files() {
        for (std::size_t i = 0; i < 2; ++i) {
            const char* const name = i == 0 ? "tersor_empty_0" : "tersor_empty_1";
            const std::string path = (std::filesystem::path(::testing::TempDir()) / name).string();
            const std::vector<std::uint8_t> bytes(20000, static_cast<std::uint8_t>(i));
            const std::vector<TensorToWrite> tensors = {{"x", "U8", {bytes.size()}, bytes}};
            write_file(path, tensors, {}, FileKind::plain);
            EXPECT_TRUE(File::open(path, file[i]).ok());
            std::filesystem::remove(path);
        }
    }

    File file[2];
};

TEST_F(Files, WithoutContentHaveNothing) {
    expect_closed(File());
    const File moved = std::move(file[0]);
    expect_closed(file[0]);  // NOLINT(bugprone-use-after-move): that is what is tested
    EXPECT_EQ(moved.tensors().size(), 1U);
    file[0] = std::move(file[1]);
    EXPECT_EQ(file[0].tensors().size(), 1U);
    expect_closed(file[1]);
    const std::vector<std::uint8_t> nonsense(40);
    File failed;
    EXPECT_FALSE(File::parse(nonsense, failed).ok());
    expect_closed(failed);
}

TEST_F(Files, VerifyTheirOwnTensorsAlone) {
    EXPECT_TRUE(file[0].verify(*file[0].find("x")).ok());
    EXPECT_THROW(static_cast<void>(file[0].verify(*file[1].find("x"))), std::invalid_argument);
    TensorView renamed = *file[0].find("x");
    renamed.name = "y";
    EXPECT_THROW(static_cast<void>(file[0].verify(renamed)), std::invalid_argument);
    TensorView cut = *file[0].find("x");
    cut.bytes = cut.bytes.first(5);
    EXPECT_THROW(static_cast<void>(file[0].verify(cut)), std::invalid_argument);
}

TEST_F(Files, ReleaseTheirOwnMemoryAlone) {
    // Memory that its owner writes to: given back, it would be zero.
    std::vector<std::uint8_t> memory(1 << 20, 7);
    TensorView view;
    view.bytes = memory;
    file[0].release(view);
    file[0].release(*file[1].find("x"));
    EXPECT_EQ(memory, std::vector<std::uint8_t>(1 << 20, 7));
    EXPECT_EQ(file[1].find("x")->bytes[12345], 1);
    file[0].release(*file[0].find("x"));
    EXPECT_EQ(file[0].find("x")->bytes[12345], 0);
}

}  // namespace
}  // namespace tersor
