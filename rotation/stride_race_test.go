//go:build race

package rotation_test

// stride is how many steps further the next one is that is made to fail: the
// race detector makes SQLite ten times slower, and is not after each of them.
const stride = 11
