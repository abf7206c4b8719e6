package cluster

import (
	"encoding/csv"
	"fmt"
	"io"
	"net"
	"os/exec"
	"strings"
	"testing"

	"keyhole/integration/internal/proc"
)

// balancer is HAProxy in front of the gateways: plain TCP, and no more
// knowledge of them than what /readyz says.
type balancer struct {
	t     *testing.T
	addr  string // host:port
	stats string // host:port
}

const haproxyConfig = `
global
  stats socket ipv4@%s level admin
defaults
  mode tcp
  timeout connect 2s
  timeout check 5s
  timeout client 5m
  timeout server 5m
  option redispatch 1
  retries 3
frontend keyhole
  bind %s
  default_backend gateways
backend gateways
  balance roundrobin
  option httpchk GET /readyz
  http-check expect status 200
  default-server check inter 200ms fall 1 rise 1
`

// balance starts HAProxy in front of gates.
func balance(t *testing.T, gates []*gate) *balancer {
	t.Helper()
	host := loopback(t)
	b := &balancer{t: t, addr: host + ":8443", stats: host + ":9999"}
	config := fmt.Sprintf(haproxyConfig, b.stats, b.addr)
	for _, g := range gates {
		config += fmt.Sprintf("  server %s %s:%d addr %s port %d\n", g.name, g.host, apiPort, g.host, opsPort)
	}
	proc.Start(t, exec.Command("/usr/sbin/haproxy", "-db", "-f", write(t, t.TempDir(), "haproxy.cfg", config)))
	proc.Eventually(t, "HAProxy answers", func() bool {
		_, err := b.state()
		return err == nil
	})
	return b
}

// state returns what HAProxy takes each gateway for: UP, DOWN ...
func (b *balancer) state() (map[string]string, error) {
	conn, err := new(net.Dialer).DialContext(b.t.Context(), "tcp", b.stats)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "show stat\n"); err != nil {
		return nil, err
	}
	text, err := io.ReadAll(conn)
	if err != nil {
		return nil, err
	}
	rows, err := csv.NewReader(strings.NewReader(strings.TrimPrefix(strings.TrimSpace(string(text)), "# "))).ReadAll()
	if err != nil || len(rows) == 0 {
		return nil, fmt.Errorf("show stat: %w: %q", err, text)
	}
	column := map[string]int{}
	for i, name := range rows[0] {
		column[name] = i
	}
	state := map[string]string{}
	for _, row := range rows[1:] {
		if row[column["pxname"]] == "gateways" {
			state[row[column["svname"]]] = row[column["status"]]
		}
	}
	return state, nil
}

// sees waits until HAProxy takes each of the gates for up, or for down.
func (b *balancer) sees(up bool, gates ...*gate) {
	b.t.Helper()
	var state map[string]string
	proc.Eventually(b.t, fmt.Sprintf("HAProxy sees %v up (%t)", names(gates), up), func() bool {
		var err error
		state, err = b.state()
		for _, g := range gates {
			if err != nil || strings.HasPrefix(state[g.name], "UP") != up {
				return false
			}
		}
		return true
	})
}

func names(gates []*gate) (all []string) {
	for _, g := range gates {
		all = append(all, g.name)
	}
	return all
}
