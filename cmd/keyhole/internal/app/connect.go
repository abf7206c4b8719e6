package app

import (
	"time"

	"github.com/spf13/cobra"

	"keyhole/client"
)

// Slow is the annotation of commands that generate keys in the HSM, which may
// take a while: what people are shown meanwhile.
const Slow = "slow"

const (
	defaultTimeout = 30 * time.Second
	slowTimeout    = 2 * time.Minute
)

// config reads flags and environment; flags win.
func (a *App) config() (client.Config, error) {
	pick := func(flag, env string) string {
		if flag != "" {
			return flag
		}
		return a.Getenv(env)
	}
	cfg := client.Config{
		Address:    pick(a.flags.addr, "KEYHOLE_ADDR"),
		CACertFile: pick(a.flags.cacert, "KEYHOLE_CACERT"),
		CertFile:   pick(a.flags.cert, "KEYHOLE_CERT"),
		KeyFile:    pick(a.flags.key, "KEYHOLE_KEY"),
		UserAgent:  "keyhole-cli/" + versionOf(a.Version),
	}
	if cfg.Address == "" {
		return cfg, Usagef("no gateway is named: set KEYHOLE_ADDR (or --addr) to its URL, such as https://127.0.0.1:8443")
	}
	token, file := a.Getenv("KEYHOLE_TOKEN"), a.Getenv("KEYHOLE_TOKEN_FILE")
	switch {
	case a.flags.tokenFile != "":
		cfg.Token = client.TokenFile(a.flags.tokenFile)
	case token != "" && file != "":
		return cfg, Usagef("KEYHOLE_TOKEN and KEYHOLE_TOKEN_FILE are both set: unset one of them")
	case file != "":
		cfg.Token = client.TokenFile(file)
	case token != "":
		cfg.Token = client.TokenString(token)
	}
	if (cfg.CertFile == "") != (cfg.KeyFile == "") {
		return cfg, Usagef("a client certificate needs both KEYHOLE_CERT (--cert) and KEYHOLE_KEY (--key)")
	}
	return cfg, nil
}

// Connect makes the client that flags and environment ask for.
func (a *App) Connect(cmd *cobra.Command) (*client.Client, error) {
	cfg, err := a.config()
	if err != nil {
		return nil, err
	}
	switch {
	case a.flags.timeout > 0:
		cfg.Timeout = a.flags.timeout
	case cmd.Annotations[Slow] != "":
		cfg.Timeout = slowTimeout
	default:
		cfg.Timeout = defaultTimeout
	}
	c, err := client.New(cfg)
	if err != nil {
		return nil, Usagef("%s", err)
	}
	return c, nil
}
