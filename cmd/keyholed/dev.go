package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"keyhole/cmd/keyholed/internal/dev"
	"keyhole/cmd/keyholed/internal/exit"
	"keyhole/cmd/keyholed/internal/strictyaml"
	"keyhole/softhsm"
)

func (a *app) devCommand() *cobra.Command {
	var o dev.Options
	c := &cobra.Command{
		Use:   "dev --dir DIR",
		Short: "Run a development gateway on a SoftHSM token of its own",
		Long: "Makes what a gateway needs in DIR (a SoftHSM token, a CA, certificates, tokens, policies, keyhole.yaml),\n" +
			"or goes on with what is there, and serves. For development only: whoever can read DIR is the administrator.\n\n" +
			"An edited DIR/keyhole.yaml is kept; --listen and --ops-listen go before what it says.\n\n" + exit.Help,
		Args: cobra.NoArgs,
		RunE: a.action(func(ctx context.Context) error { return a.dev(ctx, o) }),
	}
	c.Flags().StringVar(&o.Dir, "dir", "", "the `directory` to keep everything in (required); made if it does not exist")
	c.Flags().StringVar(&o.Listen, "listen", "", "`host:port` of the API (default 127.0.0.1:8443, or as keyhole.yaml says); port 0: any free one")
	c.Flags().StringVar(&o.OpsListen, "ops-listen", "", "`host:port` of health and metrics (default 127.0.0.1:9443, or as keyhole.yaml says)")
	return c
}

func (a *app) dev(ctx context.Context, o dev.Options) (err error) {
	if o.Dir == "" {
		return exit.With(exit.Config, "", errors.New("--dir is missing: name the directory to keep everything in"))
	}
	for flag, addr := range map[string]string{"--listen": o.Listen, "--ops-listen": o.OpsListen} {
		if addr == "" {
			continue
		}
		if _, _, err := net.SplitHostPort(addr); err != nil {
			return exit.With(exit.Config, "", fmt.Errorf("%s %q is no address; write host:port, like 127.0.0.1:8443", flag, addr))
		}
	}
	d, err := dev.Prepare(o)
	if err != nil {
		return devError(err)
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	if !loopback(d.Config.Listen) {
		a.warn("WARNING: %s is open to the network, and this is a DEVELOPMENT gateway:\n"+
			"WARNING: its keys are files, and whoever reads %s is its administrator.\n", d.Config.Listen, d.Path)
	}
	return a.serve(ctx, d.Config, func(api, ops string) error {
		if err := d.Serving(api, ops); err != nil {
			return err
		}
		_, err := fmt.Fprint(a.out, servingLine(api, ops)+"\n"+paste(d, api))
		return err
	})
}

func devError(err error) error {
	if _, ok := errors.AsType[strictyaml.Errors](err); ok {
		return exit.With(exit.Config, "correct DIR/keyhole.yaml, or remove it to have it written again", err)
	}
	switch {
	case errors.Is(err, softhsm.ErrNotInstalled):
		return exit.With(exit.HSM, "", err)
	case errors.Is(err, dev.ErrForeign), errors.Is(err, dev.ErrInUse):
		return exit.With(exit.Config, "", err)
	}
	return err
}

// loopback reports whether only this machine can reach addr.
func loopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	ip, perr := netip.ParseAddr(host)
	return err == nil && (host == "localhost" || perr == nil && ip.IsLoopback())
}

// paste is what a user puts into another shell.
func paste(d *dev.Dir, api string) string {
	file := func(name string) string { return quote(filepath.Join(d.Path, name)) }
	var b strings.Builder
	fmt.Fprintf(&b, "\nPaste into another shell to be the administrator (%s for the agent, %s for a second administrator,\n"+
		"where an act needs two people); tokens are good until %s:\n\n", dev.AgentToken, dev.ApproverToken, d.Expires.Local().Format("2006-01-02 15:04"))
	fmt.Fprintf(&b, "  export KEYHOLE_ADDR=%s\n", quote(api))
	fmt.Fprintf(&b, "  export KEYHOLE_CACERT=%s\n", file(dev.CAFile))
	fmt.Fprintf(&b, "  export KEYHOLE_TOKEN_FILE=%s\n", file(dev.AdminToken))
	b.WriteString("\n  curl --cacert \"$KEYHOLE_CACERT\" -H \"Authorization: Bearer $(cat \"$KEYHOLE_TOKEN_FILE\")\" \"$KEYHOLE_ADDR/v1/whoami\"\n\n")
	return b.String()
}

// quote makes one word of a shell of s.
func quote(s string) string {
	plain := strings.IndexFunc(s, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("/._-:@%+,", r))
	}) < 0
	if plain && s != "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
