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
// While the store cannot be written, operations go on until what is reserved
// is used up, and then fail with keys.ErrStore: nothing is done uncounted.
//
// Memory is bounded by the versions and by the triples that are in use:
// idle ones are given back and forgotten.
package usage
