//go:build !race

package rotation_test

// stride is how many steps further the next one is that is made to fail.
const stride = 1
