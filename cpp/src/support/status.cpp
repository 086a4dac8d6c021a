#include "tersor/status.hpp"

namespace tersor {

std::string_view describe(Status status) noexcept {
    switch (status) {
        case Status::ok: return "no error";
        case Status::truncated: return "the data is truncated";
        case Status::trailing_bytes: return "unexpected bytes follow the data";
        case Status::bad_magic: return "the data does not start with the expected signature";
        case Status::unsupported_version: return "written by a later version of the format";
        case Status::bad_header: return "a header field has a value that the format does not allow";
        case Status::bad_code_lengths: return "the code lengths do not make a complete prefix code";
        case Status::bad_code_word: return "a code word or its padding is not valid";
        case Status::size_mismatch: return "two announced sizes contradict each other";
        case Status::too_large: return "an announced size is larger than allowed";
        case Status::gap_past_end: return "a gap runs past the end of its row or of the tensor";
        case Status::bad_filler: return "a pruned entry is not a filler";
        case Status::code_past_codebook: return "a code has no value in the codebook";
        case Status::not_finite: return "a stored value is NaN or infinite";
        case Status::hash_mismatch: return "the checksum does not match: the bytes were altered";
        case Status::bad_json: return "the header is not the JSON that safetensors asks for";
        case Status::duplicate_name: return "a name occurs twice";
        case Status::overlapping_tensors: return "tensors overlap or leave holes between them";
        case Status::io_error: return "the operating system refused to read or write";
    }
    return "unknown status";
}

void throw_if_error(Result result, std::string_view subject, std::string_view unit) {
    if (result.ok()) return;
    std::string what(subject);
    what += ": ";
    what += describe(result.status);
    what += " (at ";
    what += unit;
    what += ' ';
    what += std::to_string(result.count);
    what += ')';
    throw FormatError(what, result);
}

}  // namespace tersor
