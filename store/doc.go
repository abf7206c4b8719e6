// Package store keeps what Keyhole knows about its keys: names, versions,
// rotations, and the answers to repeated requests. The key material itself
// is in the HSM and is never here.
//
// Store is the contract and SQLite its implementation; storetest.Run is the
// suite that every implementation passes. Requests do not read the store:
// they read the Snapshot that a Cache keeps in memory.
//
// A store that was altered behind the gateway's back must not bring a
// compromised version back, as far as the store itself can see to that: what
// has been generated, revoked or destroyed stays so, and a Commit that says
// otherwise is refused, whoever asks.
package store
