// What becomes of the folder around a file that is written.
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <system_error>

#include "container/replace_file.hpp"
#include "tersor/container.hpp"

namespace tersor {
namespace {

namespace fs = std::filesystem;

constexpr uid_t nobody = 65534;

/// A folder of the test's own that goes with it.
class Saving : public ::testing::Test {
protected:
    Saving() {
        folder_ = fs::path(::testing::TempDir()) /
                  (std::string("tersor_saving_") +
                   ::testing::UnitTest::GetInstance()->current_test_info()->name());
        fs::remove_all(folder_);
        fs::create_directories(folder_);
    }
    ~Saving() override {
        fs::permissions(folder_, fs::perms::owner_all);
        fs::remove_all(folder_);
    }

    [[nodiscard]] std::string path(const std::string& name = "f") const {
        return (folder_ / name).string();
    }
    [[nodiscard]] std::vector<std::string> files() const {
        std::vector<std::string> names;
        for (const auto& entry : fs::directory_iterator(folder_)) {
            names.push_back(entry.path().filename().string());
        }
        std::ranges::sort(names);
        return names;
    }
    [[nodiscard]] static std::string text(const std::string& path) {
        std::ifstream stream(path, std::ios::binary);
        return {std::istreambuf_iterator<char>(stream), {}};
    }
    [[nodiscard]] static bool is_whole(const std::string& path) {
        File file;
        return File::open(path, file).ok() && file.verify().ok();
    }
    [[nodiscard]] static struct stat status(const std::string& path) {
        struct stat result{};
        EXPECT_EQ(stat(path.c_str(), &result), 0) << path;
        return result;
    }

    fs::path folder_;
};

/// The number of the system's error that writing ends with; 0 for none, -1 for another exception.
int error_of_writing(const std::string& path) {
    try {
        write_file(path, {});
        return 0;
    } catch (const std::system_error& error) {
        return error.code().value();
    } catch (...) {
        return -1;
    }
}

/// Runs the body, which returns a number up to 255, in another process; what it returns.
template <class Body>
int in_child(const Body& body) {
    const pid_t child = fork();
    if (child == 0) _exit(body());
    int status = 0;
    EXPECT_EQ(waitpid(child, &status, 0), child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/// Without the rights of the superuser, who may write everywhere.
template <class Body>
int without_rights(const Body& body) {
    return in_child([&] {
        if (geteuid() == 0 && (setgid(nobody) != 0 || setuid(nobody) != 0)) return 255;
        return body();
    });
}

TEST_F(Saving, FilesOfOthersBesideTheTargetStay) {
    std::ofstream(path("f.tmp")) << "another program's";
    std::ofstream(path(".f.tersor-notes")) << "mine";
    write_file(path(), {});
    EXPECT_TRUE(is_whole(path()));
    EXPECT_EQ(text(path("f.tmp")), "another program's");
    EXPECT_EQ(files(), (std::vector<std::string>{".f.tersor-notes", "f", "f.tmp"}));
}

TEST_F(Saving, ALinkInTheWayOfNobodyIsNotFollowed) {
    std::ofstream(path("other")) << "kept";
    fs::create_symlink("other", path("f.tmp"));
    write_file(path(), {});
    EXPECT_EQ(text(path("other")), "kept");
    EXPECT_EQ(files(), (std::vector<std::string>{"f", "f.tmp", "other"}));
}

TEST_F(Saving, AFolderThatCannotBeWrittenToIsOneError) {
    std::ofstream(path()) << "old";
    std::ofstream(path("f.tmp")) << "anybody may write here";
    fs::permissions(path("f.tmp"), fs::perms::all);
    fs::permissions(folder_, fs::perms(0555));
    EXPECT_EQ(without_rights([&] { return error_of_writing(path()); }), EACCES);
    EXPECT_EQ(text(path()), "old");
    EXPECT_EQ(files(), (std::vector<std::string>{"f", "f.tmp"}));
    EXPECT_EQ(without_rights([&] {
                  try {
                      write_file(path(), {});
                      return 1;
                  } catch (const std::system_error& error) {
                      const std::string text = error.what();
                      return text.starts_with(path() + ": a file cannot be made in its folder") ? 0
                                                                                                : 2;
                  }
              }),
              0);
}

TEST_F(Saving, AFolderThatCannotBeSyncedIsNoError) {
    std::ofstream(path()) << "old";
    if (geteuid() == 0) {
        ASSERT_EQ(chown(folder_.c_str(), nobody, nobody), 0);
    }
    fs::permissions(folder_, fs::perms(0300));  // it can be written to, and not be opened
    EXPECT_EQ(without_rights([&] { return error_of_writing(path()); }), 0);
    fs::permissions(folder_, fs::perms(0700));
    EXPECT_TRUE(is_whole(path()));
}

TEST_F(Saving, ALinkStaysALinkAndWhatItLeadsToIsReplaced) {
    fs::create_directories(path("blobs"));
    fs::create_directories(path("snapshot"));
    std::ofstream(path("blobs/1234")) << "old";
    fs::create_symlink("../blobs/1234", path("snapshot/m"));
    fs::create_symlink(path("snapshot/m"), path("latest"));
    fs::create_symlink("blobs/5678", path("new"));  // of which there is nothing yet
    write_file(path("latest"), {});
    write_file(path("new"), {});
    for (const char* link : {"snapshot/m", "latest", "new"}) {
        EXPECT_TRUE(fs::is_symlink(path(link))) << link;
        EXPECT_TRUE(is_whole(path(link))) << link;
    }
    EXPECT_FALSE(fs::is_symlink(path("blobs/1234")));
    EXPECT_TRUE(is_whole(path("blobs/1234")));
    EXPECT_TRUE(is_whole(path("blobs/5678")));

    fs::create_symlink("b", path("a"));
    fs::create_symlink("a", path("b"));
    EXPECT_EQ(error_of_writing(path("a")), ELOOP);
}

TEST_F(Saving, AFileThatIsReplacedHandsItsPermissionsOn) {
    for (const mode_t mode : {0600U, 0640U, 0444U, 0664U}) {
        std::ofstream(path("old")) << "old";
        ASSERT_EQ(chmod(path("old").c_str(), mode), 0);
        write_file(path("old"), {});
        EXPECT_EQ(status(path("old")).st_mode & 07777, mode);
        EXPECT_TRUE(is_whole(path("old")));
        fs::remove(path("old"));
    }
    const mode_t before = umask(027);
    write_file(path("new"), {});
    umask(before);
    EXPECT_EQ(status(path("new")).st_mode & 07777, 0640U);
}

TEST_F(Saving, AFileThatIsReplacedHandsItsOwnerOn) {
    if (geteuid() != 0) GTEST_SKIP() << "only the superuser may give files away";
    std::ofstream(path()) << "old";
    ASSERT_EQ(chown(path().c_str(), 1234, 5678), 0);
    write_file(path(), {});
    EXPECT_EQ(status(path()).st_uid, 1234U);
    EXPECT_EQ(status(path()).st_gid, 5678U);

    // Who may not keep the group does not let their own in instead.
    ASSERT_EQ(chmod(path().c_str(), 0640), 0);
    fs::permissions(folder_, fs::perms::all);
    EXPECT_EQ(without_rights([&] { return error_of_writing(path()); }), 0);
    EXPECT_EQ(status(path()).st_uid, nobody);
    EXPECT_EQ(status(path()).st_mode & 07777, 0600U);
}

TEST_F(Saving, WhatIsNoFileIsNotReplaced) {
    fs::create_directory(path("folder"));
    ASSERT_EQ(mkfifo(path("pipe").c_str(), 0600), 0);
    EXPECT_EQ(error_of_writing(path("folder")), EISDIR);
    EXPECT_EQ(error_of_writing(path("pipe")), ENOTSUP);
    EXPECT_EQ(files(), (std::vector<std::string>{"folder", "pipe"}));
}

TEST_F(Saving, WhatAKilledProcessLeftGoesWithTheNextSave) {
    EXPECT_EQ(in_child([&] {
                  container::FileReplacement file(path());
                  file.write(std::vector<std::uint8_t>(5000));
                  raise(SIGKILL);
                  return 0;
              }),
              -1);
    ASSERT_EQ(files().size(), 1U);
    {
        container::FileReplacement other(path("f2"));  // of another target
        container::FileReplacement same(path());       // a save that is under way
        EXPECT_EQ(files().size(), 2U);
        write_file(path(), {});
        EXPECT_EQ(files().size(), 3U);
        same.commit();
        EXPECT_EQ(files().size(), 2U);
    }
    EXPECT_EQ(files(), std::vector<std::string>{"f"});
}

TEST_F(Saving, TheLongestNamesCanBeWritten) {
    const std::string longest(255, 'x');
    write_file(path(longest), {});
    EXPECT_EQ(files(), std::vector<std::string>{longest});
    EXPECT_EQ(error_of_writing(path(longest + "x")), ENAMETOOLONG);
    EXPECT_EQ(files(), std::vector<std::string>{longest});
}

TEST_F(Saving, NoDescriptorIsLeftOpen) {
    if (!fs::exists("/proc/self/fd")) GTEST_SKIP() << "the system does not list descriptors";
    const auto open = [] { return std::distance(fs::directory_iterator("/proc/self/fd"), {}); };
    const auto before = open();
    fs::create_directory(path("folder"));
    write_file(path(), {});
    write_file(path(), {});
    EXPECT_NE(error_of_writing(path("folder")), 0);
    EXPECT_NE(error_of_writing(path("none/f")), 0);
    EXPECT_NE(error_of_writing(path(std::string(256, 'x'))), 0);
    EXPECT_EQ(open(), before);
}

}  // namespace
}  // namespace tersor
