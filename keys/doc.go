// Package keys is the vocabulary of Keyhole: names, versions, algorithms,
// states, the timeline that says which version is active, the ciphertext
// envelope, and the sentinel errors that every layer shares.
//
// It imports the standard library only and does no I/O, so that the server,
// the client and the CLI can speak of the same things. Terms follow NIST
// SP 800-57 Part 1 Rev. 5 (key states), PKCS#11 v2.40 (objects) and JOSE
// (RFC 7515 to 7518, algorithms).
package keys
