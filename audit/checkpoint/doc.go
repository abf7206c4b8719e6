// Package checkpoint is how an audit log is vouched for: the size and root of
// its Merkle tree in a signed note (c2sp.org/tlog-checkpoint and
// c2sp.org/signed-note), signed by a versioned key in the HSM. Whoever keeps
// a checkpoint can later tell whether the log still holds everything that it
// held then, with public keys alone.
package checkpoint
