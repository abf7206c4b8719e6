// Package merkle keeps the Merkle tree over the lines of an audit log: RFC
// 6962 hashes in the layout of golang.org/x/mod/sumdb/tlog, whose proofs
// therefore apply.
//
// A Tree is the right edge of a tree in memory, enough to append and to name
// the root. A File holds every complete node, 32 bytes each, at 32 times its
// tlog.StoredHashIndex; with it any proof can be made. The file is not
// trusted: nodes follow from the lines, and whoever opens it compares its
// root with a signed checkpoint.
package merkle
