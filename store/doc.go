// Package store keeps what Keyhole knows about its keys: names, versions,
// rotations, and the answers to repeated requests. The key material itself
// is in the HSM and is never here.
//
// Store is the contract; SQLite implements it for one gateway, in a file, and
// Postgres for several, in a database that they share. storetest.Run is the
// suite that both pass, and Copy leads from the one to the other. Requests do
// not read the store: they read the Snapshot that a Cache keeps in memory.
//
// A store that was altered behind the gateway's back must not bring a
// compromised version back. What has been generated, revoked, switched to or
// destroyed stays so, and a Commit that says otherwise is refused, whoever
// asks. And what is stored of keys, rotations, approvals and blocked
// principals is sealed by a key that only the HSM can make: a row that was
// edited, moved, exchanged or taken away is found, and nothing is done with
// what it belongs to, while everything else goes on. A good row of former
// times that is put back is found by its epoch, as long as a gateway runs
// that knows better; marks on the token (keys.RevocationMark) see to the
// rest. Events, usage, subscriptions, acknowledgements, nodes and leases are
// not sealed: who can write to the database can lie about these.
package store
