package keys

import "time"

// Node is one gateway process, as its heartbeats in the store tell. Times are
// the store's, so that no two clocks are compared.
type Node struct {
	Instance  string // of this run of the process; unique
	Name      string // as configured; one running instance has it
	Version   string // of the program
	Revision  uint64 // of the store, that its snapshot of the keys is from
	StartedAt time.Time
	SeenAt    time.Time // the latest heartbeat
	// Until is when it has stopped using keys by itself, unless it is seen
	// again before: nothing waits for it after that.
	Until time.Time
	Live  bool // Until had not come when this was read
}
