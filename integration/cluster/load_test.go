package cluster

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"keyhole/integration/internal/proc"
)

// loadVariable makes this test program a load generator: its value is a
// loadConfig. Agents run in processes of their own so that some of them can
// speak HTTP/1.1 and some HTTP/2.
const loadVariable = "KEYHOLE_CLUSTER_LOAD"

// loadConfig says what agents do.
type loadConfig struct {
	Address, CA, TokenFile string
	Sign, Encrypt          []string // keys
	Workers                int      // for each key
	Pause                  time.Duration
	Retries                int // as client.Config has it
}

// used is how one version was used, as its users saw it.
type used struct {
	Count int
	// The version was used at some moment not after FirstEnd, and at some
	// moment not before LastStart.
	FirstEnd, LastStart time.Time
}

// tally is what agents have seen so far.
type tally struct {
	Calls    int             // answered as they should be
	Failures []string        // the first few of those that were not
	Failed   int             // how many those were
	Used     map[string]used // version id -> signatures and encryptions
	Done     bool            // the last one
}

func (t *tally) add(o tally) {
	t.Calls += o.Calls
	t.Failed += o.Failed
	t.Failures = append(t.Failures, o.Failures...)
	for kid, u := range o.Used {
		v, ok := t.Used[kid]
		if !ok {
			t.Used[kid] = u
			continue
		}
		v.Count += u.Count
		if u.FirstEnd.Before(v.FirstEnd) {
			v.FirstEnd = u.FirstEnd
		}
		if u.LastStart.After(v.LastStart) {
			v.LastStart = u.LastStart
		}
		t.Used[kid] = v
	}
}

// load is agents at work.
type load struct {
	t        *testing.T
	children []*child
}

type child struct {
	what string
	p    *proc.Process
	stop io.Closer // its standard input
}

// load starts agents on addr: half of them with HTTP/2, half with HTTP/1.1.
func (s *site) load(c loadConfig) *load {
	s.t.Helper()
	c.CA = made + "/ca.crt"
	if c.TokenFile == "" {
		c.TokenFile = made + "/agent.jwt"
	}
	if c.Address == "" {
		c.Address = s.lb.addr
	}
	if c.Pause == 0 && !long {
		c.Pause = 25 * time.Millisecond
	}
	if c.Workers == 0 {
		c.Workers = 1
		if long {
			c.Workers = 4
		}
	}
	text, err := json.Marshal(c)
	must(s.t, err)
	l := &load{t: s.t}
	self, err := os.Executable()
	must(s.t, err)
	for _, protocol := range []string{"http2client=1", "http2client=0"} {
		cmd := exec.Command(self)
		cmd.Env = append(os.Environ(), loadVariable+"="+string(text), "GODEBUG="+protocol)
		stdin, err := cmd.StdinPipe()
		must(s.t, err)
		l.children = append(l.children, &child{what: protocol, p: proc.Start(s.t, cmd), stop: stdin})
	}
	l.goesOn(1)
	return l
}

// last returns the latest tally of a child.
func (c *child) last() (t tally) {
	lines := strings.Split(c.p.Stdout.String(), "\n")
	for i := len(lines) - 2; i >= 0; i-- { // the last one may be torn
		if json.Unmarshal([]byte(lines[i]), &t) == nil {
			return t
		}
	}
	return tally{}
}

// seen returns what all agents have seen by now.
func (l *load) seen() tally {
	t := tally{Used: map[string]used{}}
	for _, c := range l.children {
		t.add(c.last())
	}
	return t
}

// goesOn waits until each child has made n more calls.
func (l *load) goesOn(n int) {
	l.t.Helper()
	for _, c := range l.children {
		want := c.last().Calls + n
		proc.Eventually(l.t, fmt.Sprintf("agents (%s) make %d calls", c.what, n), func() bool {
			if !c.p.Running() {
				l.t.Fatalf("agents ended: %s", c.p.Stderr)
			}
			return c.last().Calls >= want
		})
	}
}

// end stops the agents and returns all that they saw.
func (l *load) end() tally {
	l.t.Helper()
	for _, c := range l.children {
		must(l.t, c.stop.Close())
	}
	for _, c := range l.children {
		if status := c.p.Wait(); status != 0 || !c.last().Done {
			l.t.Fatalf("agents ended with status %d: %s", status, c.p.Stderr)
		}
	}
	return l.seen()
}

// perfect is end, and fails the test if any call failed.
func (l *load) perfect() tally {
	l.t.Helper()
	seen := l.end()
	if seen.Failed > 0 {
		l.t.Errorf("%d calls failed (%d did not):\n%s", seen.Failed, seen.Calls, strings.Join(seen.Failures, "\n"))
	}
	l.t.Logf("%d calls, %d failed", seen.Calls, seen.Failed)
	return seen
}

// loadMain is the child: it works until its standard input ends, and writes a
// tally a line.
func loadMain(config string) int {
	var c loadConfig
	if err := json.Unmarshal([]byte(config), &c); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	out := bufio.NewWriter(os.Stdout)
	say := func(t tally) error {
		if err := json.NewEncoder(out).Encode(t); err != nil {
			return err
		}
		return out.Flush()
	}
	if err := work(c, os.Stdin, say); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}
