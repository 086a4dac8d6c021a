// How a function that reads untrusted data answers: a status, and a position or a count.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>

namespace tersor {

enum class Status : std::uint8_t {
    ok,
    truncated,            // the data ends before what it announces
    trailing_bytes,       // data goes on after its announced end
    bad_magic,            // not a tersor blob or not a safetensors file
    unsupported_version,  // written by a later format version
    bad_header,           // a header field has a value that the format does not allow
    bad_code_lengths,     // a prefix code that is over-subscribed or incomplete
    bad_code_word,        // a bit pattern that no symbol has, or padding bits that are not zero
    size_mismatch,        // two announced sizes contradict each other
    too_large,            // a size overflows or is larger than the data can back
    gap_past_end,         // a gap runs past the end of its row or of the tensor
    bad_filler,           // a pruned code (0) whose gap is not the filler gap
    code_past_codebook,   // a code with no value in the codebook
    not_finite,           // a stored value is NaN or infinite
    hash_mismatch,        // the stored checksum is not the one of the bytes
    bad_json,             // the safetensors header is not the JSON that the format asks for
    duplicate_name,       // two tensors, or two keys, have one name
    overlapping_tensors,  // tensors overlap, or leave holes between them
    io_error,             // the operating system refused to open, read or write
};

/// One sentence part, lower case, without a full stop, e.g. "the data is truncated".
[[nodiscard]] std::string_view describe(Status status) noexcept;

/// `count` is what the function documents (elements written, bytes needed) when `ok`, and otherwise
/// the position of the fault: a byte offset for streams and files, an entry index for arrays.
struct [[nodiscard]] Result {
    Status status = Status::ok;
    std::size_t count = 0;

    [[nodiscard]] constexpr bool ok() const noexcept { return status == Status::ok; }
};

/// Untrusted data turned out to be malformed; thrown only by the convenience wrappers that say so.
class FormatError : public std::runtime_error {
public:
    FormatError(const std::string& what, Result result)
        : std::runtime_error(what), result_(result) {}
    [[nodiscard]] Result result() const noexcept { return result_; }

private:
    Result result_;
};

/// Throws FormatError("<subject>: <description> at <unit> <position>") unless `result.ok()`.
void throw_if_error(Result result, std::string_view subject, std::string_view unit = "byte");

}  // namespace tersor
