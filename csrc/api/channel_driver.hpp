// Work of two passes over an array (outer, channels, inner): two sums for each channel, then every element with what
// they lead to. Long inner runs go channel by channel, so that a channel stays in cache between the passes; short ones
// go row by row with every column on its own. Blocks, and the order in which their sums meet, follow from the shape.
#pragma once

#include "api/channel_blocks.hpp"
#include "runtime/team.hpp"
#include "runtime/threads.hpp"

namespace onepass::api {

constexpr std::int64_t kTile = 512;               // columns of a tile
constexpr std::int64_t kGroupElements = 1 << 16;  // elements whose partial sums are merged before they meet others
constexpr std::int64_t kElementwisePiece = 4096;  // elements of an elementwise task
constexpr std::int64_t kFetchedSlab = 65536;      // elements of a channel below which the next one is fetched early

// Some numbers for each channel, in the form that kernels take.
template <typename T>
struct Channels {
  std::vector<T> numbers;
  std::int64_t width;  // room for one a column
  Channels(const Shape& shape, int kinds) : width(shape.by_run() ? shape.channels : shape.fold() * shape.width()) {
    numbers.resize(static_cast<std::size_t>(width * kinds));
  }
  T* at(int kind) { return numbers.data() + kind * width; }
  // From one number a channel to one a column.
  void repeat(const Shape& shape, int first, int last) {
    for (int kind = first; width > shape.channels && kind < last; ++kind)
      for (std::int64_t i = width - 1; i >= 0; --i) at(kind)[i] = at(kind)[i % shape.width() / shape.inner];
  }
};

// Blocks of one channel's runs.
struct RunBlocks {
  std::int64_t outer, inner, rows_a_block, pieces, length, count;

  explicit RunBlocks(const Shape& s) : outer(s.outer), inner(s.inner) {
    rows_a_block = std::max<std::int64_t>(1, kRunBlock / inner);
    pieces = (inner + kRunBlock - 1) / kRunBlock;
    length = std::min(inner, kRunBlock);
    count = (outer + rows_a_block - 1) / rows_a_block * pieces;
  }
  Block block(std::int64_t channel, std::int64_t b) const {
    const std::int64_t row = b / pieces * rows_a_block, start = b % pieces * length;
    return {channel, row, std::min(rows_a_block, outer - row), start, std::min(length, inner - start), channel};
  }
};

// Tiles of columns, each in groups of rows.
struct ColumnTiles {
  std::int64_t rows, width, tiles, block_rows, group_rows, groups;

  explicit ColumnTiles(const Shape& s) : rows(s.outer), width(s.width()) {
    const std::int64_t tile = std::min(width, kTile), fold = s.fold();
    tiles = (width + kTile - 1) / kTile;
    block_rows =
        fold > 1 ? kTileBlock / (fold * width) * fold : std::clamp<std::int64_t>(kTileBlock / tile / 4 * 4, 4, 256);
    const std::int64_t blocks = std::max<std::int64_t>(1, kGroupElements / (block_rows * tile));
    group_rows = block_rows * blocks;
    groups = (rows + group_rows - 1) / group_rows;
  }
};

// Pieces of whole rows, or of one wide row.
struct ColumnPieces {
  std::int64_t rows, width, rows_a_piece, columns, pieces_a_row, count;

  explicit ColumnPieces(const Shape& s) : rows(s.outer), width(s.width()) {
    columns = std::min(width, kRunBlock);
    pieces_a_row = (width + columns - 1) / columns;
    rows_a_piece = pieces_a_row > 1 ? 1 : std::max<std::int64_t>(1, kElementwisePiece / width);
    count = (rows + rows_a_piece - 1) / rows_a_piece * pieces_a_row;
  }
  Block piece(std::int64_t i) const {
    const std::int64_t row = i / pieces_a_row * rows_a_piece, start = i % pieces_a_row * columns;
    return {0, row, std::min(rows_a_piece, rows - row), start, std::min(columns, width - start), start};
  }
};

// Work: what is done with blocks and channels.
//   shape, reduces, applies
//   team(tasks)                                     how many threads
//   reduce(stage, block, first, second)             sums of a block: one of each, or one a column
//   combine(seen, first, second, count, f, s, n)    adds sums over `count` values to sums over `seen`, n channels or
//                                                   columns; all zero where seen is zero
//   finish(channel, n, first, second)               what follows from the sums of channels [channel, channel + n)
//   finished()                                      all channels are, and elements follow
//   apply(stage, block)
//   fetch_reduced(block), fetch_applied(block)      ask for memory: what reduce reads; what apply alone touches
template <typename Work>
class ChannelDriver {
 public:
  explicit ChannelDriver(Work& work) : work_(work), shape_(work.shape) {}
  void run() { shape_.by_run() ? by_run() : by_column(); }

 private:
  using Stage = api::Stage<typename Work::Type>;
  using Sums = std::vector<double>;

  void by_run() {
    const RunBlocks blocks(shape_);
    const std::int64_t tasks = shape_.channels * blocks.count;
    const int team = work_.team(tasks);
    if (shape_.channels % team == 0 || shape_.channels >= 8 * team)
      by_channel(blocks);
    else
      by_block(blocks, team);
  }

  // Short runs defeat the hardware's prefetchers; so while a channel is reduced, memory for what it will write is asked
  // for, and while it is written, the next channel's.
  void by_channel(const RunBlocks& blocks) {
    const bool ahead = work_.reduces && work_.applies && shape_.count() <= kFetchedSlab;
    runtime::parallel(work_.team(shape_.channels), shape_.channels, [&](std::int64_t begin, std::int64_t end) {
      Stage stage;
      for (std::int64_t c = begin; c < end; ++c) {
        double first = 0.0, second = 0.0;
        std::int64_t seen = 0;
        for (std::int64_t b = 0; work_.reduces && b < blocks.count; ++b) {
          const Block block = blocks.block(c, b);
          if (ahead) work_.fetch_applied(block);
          double f, s;
          work_.reduce(stage, block, &f, &s);
          work_.combine(seen, &first, &second, block.rows * block.n, &f, &s, 1);
          seen += block.rows * block.n;
        }
        work_.finish(c, 1, &first, &second);
        for (std::int64_t b = 0; work_.applies && b < blocks.count; ++b) {
          if (ahead && c + 1 < end) work_.fetch_reduced(blocks.block(c + 1, b));
          work_.apply(stage, blocks.block(c, b));
        }
      }
    });
  }

  // Few channels: all threads on all blocks, then the same sums in the same order.
  void by_block(const RunBlocks& blocks, int team) {
    const std::int64_t tasks = shape_.channels * blocks.count;
    const auto for_blocks = [&](auto&& visit) {
      runtime::parallel(team, tasks, [&](std::int64_t begin, std::int64_t end) {
        Stage stage;
        for (std::int64_t i = begin; i < end; ++i) visit(stage, blocks.block(i / blocks.count, i % blocks.count), i);
      });
    };
    Sums first(work_.reduces ? static_cast<std::size_t>(tasks) : 0), second(first.size());
    if (work_.reduces)
      for_blocks([&](Stage& stage, const Block& block, std::int64_t i) {
        work_.reduce(stage, block, first.data() + i, second.data() + i);
      });
    runtime::parallel(1, shape_.channels, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t c = begin; c < end; ++c) {
        double f = 0.0, s = 0.0;
        std::int64_t seen = 0;
        for (std::int64_t b = 0; work_.reduces && b < blocks.count; ++b) {
          const Block block = blocks.block(c, b);
          const std::int64_t i = c * blocks.count + b;
          work_.combine(seen, &f, &s, block.rows * block.n, first.data() + i, second.data() + i, 1);
          seen += block.rows * block.n;
        }
        work_.finish(c, 1, &f, &s);
      }
    });
    if (work_.applies) for_blocks([&](Stage& stage, const Block& block, std::int64_t) { work_.apply(stage, block); });
  }

  void by_column() {
    const ColumnTiles tiles(shape_);
    Sums first(work_.reduces ? static_cast<std::size_t>(tiles.width * tiles.groups) : 0), second(first.size());
    if (work_.reduces) reduce_columns(tiles, first.data(), second.data());
    const std::int64_t tasks = (shape_.channels + kTile - 1) / kTile;
    runtime::parallel(work_.team(tasks), tasks, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t i = begin; i < end; ++i)
        finish_columns(tiles, i * kTile, std::min(kTile, shape_.channels - i * kTile), first.data(), second.data());
    });
    if (!work_.applies) return;
    work_.finished();
    const ColumnPieces pieces(shape_);
    runtime::parallel(work_.team(pieces.count), pieces.count, [&](std::int64_t begin, std::int64_t end) {
      Stage stage;
      for (std::int64_t i = begin; i < end; ++i) work_.apply(stage, pieces.piece(i));
    });
  }

  // first, second: (groups, columns)
  void reduce_columns(const ColumnTiles& t, double* first, double* second) {
    const std::int64_t tasks = t.tiles * t.groups;
    runtime::parallel(work_.team(tasks), tasks, [&](std::int64_t begin, std::int64_t end) {
      Stage stage;
      double f[kTile], s[kTile];
      for (std::int64_t i = begin; i < end; ++i) {
        const std::int64_t group = i / t.tiles, column = i % t.tiles * kTile;
        const std::int64_t columns = std::min(kTile, t.width - column), at = group * t.width + column;
        const std::int64_t start = group * t.group_rows, last = std::min(start + t.group_rows, t.rows);
        for (std::int64_t row = start; row < last; row += t.block_rows) {
          const std::int64_t rows = std::min(t.block_rows, last - row);
          work_.reduce(stage, {0, row, rows, column, columns, column}, f, s);
          work_.combine(row - start, first + at, second + at, rows, f, s, columns);
        }
      }
    });
  }

  // Channels [channel, channel + n): the groups in order, then the columns of a channel in order.
  void finish_columns(const ColumnTiles& t, std::int64_t channel, std::int64_t n, double* first, double* second) {
    double f[kTile] = {}, s[kTile] = {};
    const std::int64_t column = channel * shape_.inner;
    for (std::int64_t group = 1; work_.reduces && group < t.groups; ++group) {
      const std::int64_t at = group * t.width + column;
      work_.combine(group * t.group_rows, first + column, second + column,
                    std::min(t.group_rows, t.rows - group * t.group_rows), first + at, second + at, n * shape_.inner);
    }
    for (std::int64_t c = 0; work_.reduces && c < n; ++c)
      for (std::int64_t i = 0; i < shape_.inner; ++i) {
        const std::int64_t at = column + c * shape_.inner + i;
        work_.combine(i * t.rows, f + c, s + c, t.rows, first + at, second + at, 1);
      }
    work_.finish(channel, n, f, s);
  }

  Work& work_;
  const Shape& shape_;
};

template <typename Work>
onepass_status drive(Work work) {
  work.start();
  ChannelDriver<Work>(work).run();
  return ONEPASS_OK;
}

}  // namespace onepass::api
