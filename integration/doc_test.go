// Package integration tests Keyhole from outside: the built programs over a
// real SoftHSM token, real files and real connections, judged by programs
// that know nothing of Keyhole (openssl, jose, pkcs11-tool) and by other
// libraries. Of Keyhole's own packages it uses only what its users have:
// client, gateway/api, keys, and audit and the packages in it to read the log.
//
// KEYHOLE_BIN names a directory with keyholed and keyhole to test in place of
// building them.
package integration
