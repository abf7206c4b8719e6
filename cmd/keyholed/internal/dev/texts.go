package dev

import (
	"bytes"
	_ "embed"
	"fmt"
	"os"
	"strconv"
	"text/template"

	"keyhole/cmd/keyholed/internal/config"
	"keyhole/softhsm"
)

//go:embed keyhole.yaml.tmpl
var configText string

var configTemplate = template.Must(template.New(ConfigFile).Funcs(template.FuncMap{"quote": strconv.Quote}).Parse(configText))

const adminPolicy = `// The development administrators may do everything. What needs two people
// needs two of them: admin.jwt asks, approver.jwt approves.
@id("dev-admin")
permit (principal, action, resource)
when { principal in Group::"admins" || principal == Agent::"mtls:admin" };
`

const agentPolicy = `// The development agent may use every key, see it, and follow it.
@id("dev-agent")
permit (
  principal,
  action in [
    Action::"sign", Action::"verify", Action::"encrypt", Action::"decrypt", Action::"rewrap",
    Action::"datakey", Action::"random", Action::"read", Action::"jwks", Action::"subscribe"
  ],
  resource
)
when { principal in Group::"agents" || principal == Agent::"mtls:agent" };
`

// texts writes the policies and the configuration, once: from then on they
// are the user's to edit.
func (p *Dir) texts(token *softhsm.Token, o Options) error {
	if err := os.MkdirAll(p.d.path("policies"), 0o700); err != nil {
		return fmt.Errorf("making the policy directory: %w", err)
	}
	if err := p.d.keep("policies/admin.cedar", []byte(adminPolicy)); err != nil {
		return err
	}
	if err := p.d.keep("policies/agent.cedar", []byte(agentPolicy)); err != nil {
		return err
	}
	def := config.Default()
	listen, ops := o.Listen, o.OpsListen
	if listen == "" {
		listen = def.Listen
	}
	if ops == "" {
		ops = def.Ops.Listen
	}
	var b bytes.Buffer
	err := configTemplate.Execute(&b, map[string]string{
		"Listen": listen, "Ops": ops, "Conf": token.Conf, "Token": tokenLabel, "Module": token.Module, "Label": token.Label,
		"Issuer": issuerName, "IssuerID": issuerID, "Audience": audience,
	})
	if err != nil {
		return fmt.Errorf("writing the configuration: %w", err)
	}
	return p.d.keep(ConfigFile, b.Bytes())
}
