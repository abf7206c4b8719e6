// Package segment reads the files of an audit log: NNNNNNNN.jsonl, or
// NNNNNNNN.jsonl.gz once a sealed one was compressed, numbered without gaps.
// It knows lines and their seq, not records.
package segment
