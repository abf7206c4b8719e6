// Package spill keeps, in one file, what was reserved of usage while the store
// could not be written.
//
// The file is lines: a checksum, and JSON. The first says whose file it is,
// each other one holds what one Put added; of several rows of one triple the
// last counts. A Put has returned only when its line is on the disk, so that
// what a crash leaves behind the last line that is whole was promised to
// nobody, and is cut. Every other line that is not as it was written stops
// whoever opens the file: it may have been a promise.
package spill
