// Package verify checks an audit log with public keys alone: every line
// against the Merkle tree, every checkpoint's signature, and that each
// checkpoint's tree goes on from the one before. It trusts neither the
// gateway nor whoever can write its files; a checkpoint that was kept
// elsewhere makes it see truncation, too.
//
// What it can say: up to the last checkpoint, the log is what the holder of
// the audit key signed, or it is not, and then which line is the first that
// is not. Behind it stand the records of the last minute, for which nobody
// vouches yet.
package verify
