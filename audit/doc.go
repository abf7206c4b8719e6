// Package audit is the append-only record of what was asked of the gateway
// and what became of it.
//
// A log is a directory of segments, 00000001.jsonl and so on, one JSON object
// a line, numbered by seq from 0 without gaps across segments and restarts. A
// record is acknowledged when its line is on the disk, and only then:
// concurrent callers share one write and its way to the disk (package journal). What was acknowledged is
// never cut, rewritten or skipped; what was not may still be there.
//
// Crash safety rests on one invariant: behind the last acknowledged byte of
// the last segment there may be anything, in front of it nothing ever
// changes. Hence a write or fsync that fails gives up the file descriptor (an
// fsync that failed once must not be believed the next time), and the log
// goes on by cutting the file back to that byte. A crash leaves at most an
// unterminated last line, which Open cuts. Both are recorded in the log.
//
// While the disk is full or broken every Append fails with keys.ErrAudit, and
// callers fail closed. The log tries again by itself.
package audit
