// Package lookup answers questions about an audit log that is being written:
// which records there are, which checkpoint vouches for them, and the proof
// of one of them.
//
// It reads the log's files from the back. A record's place is found by
// bisection, for lines are in the order of their seq and of their time, and
// one question looks through so many bytes at most: a log of any size is
// answered page by page, each in bounded time and memory.
package lookup
