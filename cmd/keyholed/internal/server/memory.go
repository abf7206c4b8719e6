package server

import "runtime"

// slack is how much more garbage may pile up before it is collected. The
// gateway's own data is a few MiB, so that Go, which collects when the heap
// has doubled, would do so dozens of times a second. A multiple of the heap
// (GOGC) would cost the same here, but too much memory with ten thousand
// versions.
const slack = 16 << 20

// withSlack gives the collector that much slack until release is called. The
// bytes count as part of the heap; as nobody touches them, they take no memory.
func withSlack() (release func()) {
	b := make([]byte, slack)
	return func() { runtime.KeepAlive(b) }
}
