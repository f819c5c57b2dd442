#include "io/file_storage.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

using meshnode::ErrorCode;
using meshnode::io::FileStorage;

namespace {

/// A directory of its own, removed at the end.
class Scratch {
 public:
  Scratch() {
    std::string pattern = (std::filesystem::temp_directory_path() / "storage-XXXXXX").string();
    REQUIRE(::mkdtemp(pattern.data()) != nullptr);
    path_ = pattern;
  }
  ~Scratch() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

/// Sets the umask and puts it back.
class Umask {
 public:
  explicit Umask(mode_t mask) : before_(::umask(mask)) {}
  ~Umask() { ::umask(before_); }

 private:
  mode_t before_;
};

void put(const std::string& path, const std::string& content) {
  std::ofstream out(path, std::ios::binary);
  out << content;
  REQUIRE(out);
}

std::vector<std::string> names_in(const std::string& directory) {
  std::vector<std::string> out;
  for (const auto& entry : std::filesystem::directory_iterator(directory)) {
    out.push_back(entry.path().filename().string());
  }
  return out;
}

}  // namespace

TEST_CASE("a file is read whole, up to the limit and not one byte beyond") {
  const Scratch scratch;
  FileStorage storage;
  put(scratch / "a", std::string(1000, 'x'));
  CHECK(storage.read(scratch / "a", 1000).value() == std::string(1000, 'x'));
  const auto over = storage.read(scratch / "a", 999);
  REQUIRE_FALSE(over);
  CHECK(over.error().code == ErrorCode::kLimit);
  put(scratch / "empty", "");
  CHECK(storage.read(scratch / "empty", 0).value().empty());
}

TEST_CASE("a file of 100 MB is refused without being read") {
  const Scratch scratch;
  put(scratch / "huge", "");
  REQUIRE(::truncate((scratch / "huge").c_str(), 100 << 20) == 0);
  const auto refused = FileStorage().read(scratch / "huge", 1 << 20);
  REQUIRE_FALSE(refused);
  CHECK(refused.error().code == ErrorCode::kLimit);
  CHECK_THAT(refused.error().message, Catch::Contains("larger than the 1048576 bytes"));
}

TEST_CASE("a file whose size the kernel does not tell is read, and bounded all the same") {
  FileStorage storage;
  const auto all = storage.read("/proc/self/mounts", 1 << 20);
  REQUIRE(all);
  CHECK_FALSE(all->empty());
  // The kernel gives a sysctl whole to the first read, and nothing to a second.
  const auto sysctl = storage.read("/proc/sys/kernel/ostype", 100);
  REQUIRE(sysctl);
  CHECK(*sysctl == "Linux\n");
  const auto bounded = storage.read("/proc/self/mounts", 10);
  REQUIRE_FALSE(bounded);
  CHECK(bounded.error().code == ErrorCode::kLimit);
}

TEST_CASE("what is no regular file is refused at once") {
  const Scratch scratch;
  FileStorage storage;
  REQUIRE(::mkfifo((scratch / "fifo").c_str(), 0600) == 0);
  CHECK(storage.read(scratch / "fifo", 10).error().code == ErrorCode::kInvalid);
  CHECK_FALSE(storage.read(scratch.path(), 10));
  CHECK(storage.read(scratch / "none", 10).error().code == ErrorCode::kNotFound);
  CHECK_THAT(storage.read(scratch / "none", 10).error().message, Catch::Contains(scratch / "none"));
}

TEST_CASE("reading follows a link, writing replaces it") {
  const Scratch scratch;
  FileStorage storage;
  put(scratch / "real", "old");
  REQUIRE(::symlink("real", (scratch / "link").c_str()) == 0);
  CHECK(storage.read(scratch / "link", 10).value() == "old");
  CHECK(storage.info(scratch / "link").value().size == 3);
  REQUIRE(storage.write_atomic(scratch / "link", "new", 0644));
  CHECK(storage.read(scratch / "real", 10).value() == "old");
  CHECK(storage.read(scratch / "link", 10).value() == "new");
  CHECK(std::filesystem::is_regular_file(std::filesystem::symlink_status(scratch / "link")));
}

TEST_CASE("a written file has exactly its mode and leaves nothing beside it") {
  const Scratch scratch;
  FileStorage storage;
  for (const mode_t mask : {0000U, 0022U, 0777U}) {
    const Umask umask(mask);
    for (const std::uint32_t mode : {0600U, 0644U, 0640U, 0400U}) {
      REQUIRE(storage.write_atomic(scratch / "file", "content", mode));
      const auto info = storage.info(scratch / "file").value();
      CHECK((info.mode & 07777U) == mode);
      CHECK(S_ISREG(info.mode));
      CHECK(info.owner == ::geteuid());
    }
  }
  CHECK(names_in(scratch.path()) == std::vector<std::string>{"file"});
}

TEST_CASE("a write is a new file, so that a reader of the old one is not disturbed") {
  const Scratch scratch;
  FileStorage storage;
  REQUIRE(storage.write_atomic(scratch / "file", "one", 0600));
  const auto before = storage.info(scratch / "file").value();
  std::ifstream reader(scratch / "file");
  REQUIRE(storage.write_atomic(scratch / "file", "two", 0600));
  CHECK(storage.info(scratch / "file").value().inode != before.inode);
  std::string seen;
  reader >> seen;
  CHECK(seen == "one");
}

TEST_CASE("what a crash or a stranger left under the temporary name does not stop a write") {
  const Scratch scratch;
  FileStorage storage;
  put(scratch / ".file.new", "half");
  REQUIRE(storage.write_atomic(scratch / "file", "whole", 0600));
  put(scratch / "victim", "safe");
  REQUIRE(::symlink("victim", (scratch / ".file.new").c_str()) == 0);
  REQUIRE(storage.write_atomic(scratch / "file", "again", 0600));
  CHECK(storage.read(scratch / "victim", 10).value() == "safe");
  CHECK(storage.read(scratch / "file", 10).value() == "again");
}

TEST_CASE("a write that cannot be finished leaves the old content and no litter") {
  const Scratch scratch;
  FileStorage storage;
  REQUIRE(storage.make_directory(scratch / "target/inside", 0755));
  const auto onto_directory = storage.write_atomic(scratch / "target", "x", 0600);
  REQUIRE_FALSE(onto_directory);
  CHECK(names_in(scratch.path()) == std::vector<std::string>{"target"});
  const auto nowhere = storage.write_atomic(scratch / "none/file", "x", 0600);
  REQUIRE_FALSE(nowhere);
  CHECK(nowhere.error().code == ErrorCode::kNotFound);
}

TEST_CASE("directories are made with their parents, and an existing one keeps its mode") {
  const Scratch scratch;
  FileStorage storage;
  const Umask umask(0077);
  REQUIRE(storage.make_directory(scratch / "a/b/c", 0750));
  for (const char* path : {"a", "a/b", "a/b/c"}) {
    CHECK((storage.info(scratch / path).value().mode & 07777U) == 0750U);
  }
  REQUIRE(storage.make_directory(scratch / "a/b", 0700));
  CHECK((storage.info(scratch / "a/b").value().mode & 07777U) == 0750U);
  REQUIRE(storage.make_directory(scratch / "a/b/", 0700));
  put(scratch / "file", "");
  CHECK_FALSE(storage.make_directory(scratch / "file", 0700));
  CHECK_FALSE(storage.make_directory(scratch / "file/below", 0700));
  REQUIRE(::symlink("nowhere", (scratch / "dangling").c_str()) == 0);
  CHECK_FALSE(storage.make_directory(scratch / "dangling", 0700));
}

TEST_CASE("a directory is listed by suffix, sorted, hidden things and strange things left out") {
  const Scratch scratch;
  FileStorage storage;
  REQUIRE(storage.make_directory(scratch / "b/deep", 0755));
  REQUIRE(storage.make_directory(scratch / ".hidden", 0755));
  for (const char* name :
       {"z.yaml", "a.yaml", "b/deep/m.yaml", "b/x.yml", ".h.yaml", ".hidden/c.yaml", "yaml"}) {
    put(scratch / name, name);
  }
  REQUIRE(::mkfifo((scratch / "fifo.yaml").c_str(), 0600) == 0);
  REQUIRE(::symlink("a.yaml", (scratch / "link.yaml").c_str()) == 0);
  REQUIRE(::symlink("nowhere", (scratch / "dangling.yaml").c_str()) == 0);
  REQUIRE(::symlink(".", (scratch / "b/loop").c_str()) == 0);
  const auto files = storage.list(scratch.path(), ".yaml", 4);
  REQUIRE(files);
  std::vector<std::string> paths;
  for (const auto& file : *files) paths.push_back(file.path);
  CHECK(paths == std::vector<std::string>{scratch / "a.yaml", scratch / "b/deep/m.yaml",
                                          scratch / "link.yaml", scratch / "z.yaml"});
  CHECK((*files)[1].size == 13);

  const auto bounded = storage.list(scratch.path(), ".yaml", 3);
  REQUIRE_FALSE(bounded);
  CHECK(bounded.error().code == ErrorCode::kLimit);
  CHECK(storage.list(scratch / "none", ".yaml", 3).error().code == ErrorCode::kNotFound);
}

TEST_CASE("32 directories deep are listed, 33 are refused") {
  const Scratch scratch;
  FileStorage storage;
  std::string path = scratch.path();
  for (int i = 0; i < 32; ++i) path += "/d";
  REQUIRE(storage.make_directory(path, 0755));
  CHECK(storage.list(scratch.path(), ".yaml", 3));
  REQUIRE(storage.make_directory(path + "/d", 0755));
  CHECK(storage.list(scratch.path(), ".yaml", 3).error().code == ErrorCode::kLimit);
}

TEST_CASE("a removed file is gone, and removing it again says so") {
  const Scratch scratch;
  FileStorage storage;
  put(scratch / "file", "x");
  REQUIRE(storage.remove(scratch / "file"));
  CHECK(storage.remove(scratch / "file").error().code == ErrorCode::kNotFound);
}
