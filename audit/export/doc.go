// Package export carries an audit log to where others keep it: a SIEM, a
// collector. An Exporter reads the log's own files behind the gateway's back,
// from a durable cursor, so that it can neither slow the data plane nor lose
// what was recorded while the other side was away. Records arrive at least
// once, in order; after a failure some arrive again, with the same seq.
package export
