// Package usage counts what every principal does with every version of a
// key: how often, how many bytes, and when last.
//
// The figures in the store are reservations. Before an operation is counted
// in memory, the store holds at least as much for its key, version,
// principal and node as is counted then; a crash therefore only ever
// over-counts, by what was reserved and not used yet. Reservations follow the
// rate of use: the first use of a triple of key, version and principal waits
// for one durable write (which everybody who comes meanwhile shares), later
// ones are reserved ahead by Run, so that a caller normally waits for
// nothing. When Run ends, what was not used is given back, and the figures
// are exact.
//
// While the store cannot be written, reservations go to a file of this
// machine (Config.Dir), each of them synced before it counts: what is
// reserved beyond what the store surely holds. When the store is back they
// are brought to it, at the start after a crash too, and the file is emptied.
// A crash between these two counts them twice, never less than once. Without
// such a file, or when it cannot be written either, operations go on until
// what is reserved is used up, and then fail with keys.ErrStore: nothing is
// done uncounted.
//
// One process writes the counters of a node: whoever loads them claims them.
// A process that was paused meanwhile finds its claim gone at its next write,
// and has lowered nothing.
//
// Memory is bounded by the versions and by the triples that are in use:
// idle ones are given back and forgotten.
package usage
