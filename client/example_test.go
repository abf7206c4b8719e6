package client_test

import (
	"context"
	"fmt"
	"log"

	"keyhole/client"
	"keyhole/gateway/api"
)

// agent signs each message and checks the signature of each answer, across
// rotations, revocations and restarts of the gateway. New versions are
// acknowledged, and their public keys here, before they are used.
func agent(ctx context.Context, cfg client.Config, messages <-chan []byte, signed chan<- string) error {
	c, err := client.New(cfg)
	if err != nil {
		return err
	}
	w, err := c.Watch(client.WatchConfig{Keys: []string{"payments"}})
	if err != nil {
		return err
	}
	ran := make(chan error, 1)
	go func() { ran <- w.Run(ctx) }()
	for {
		select {
		case err := <-ran:
			return err
		case msg := <-messages:
			s, err := c.Sign(ctx, "payments", api.SignRequest{Payload: msg, Format: api.FormatJWS})
			if err != nil {
				return err
			}
			v, err := w.Verify(ctx, "payments", api.VerifyRequest{JWS: s.JWS}) // asks nobody
			if err != nil || !v.Valid {
				return fmt.Errorf("%s: %s, %w", s.KeyID, v.Reason, err)
			}
			signed <- s.JWS
		}
	}
}

func Example() {
	messages, signed := make(chan []byte), make(chan string)
	err := agent(context.Background(), client.Config{
		Address:    "https://keyhole.example:8443",
		CACertFile: "/etc/keyhole/ca.crt",
		Token:      client.TokenFile("/run/keyhole/token"),
	}, messages, signed)
	if err != nil {
		log.Fatal(err)
	}
}
