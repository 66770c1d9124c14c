// Resolves a name with Go's own resolver and connects to it as an application does, and tells on one line of JSON how
// that went.
//
//	lookup NAME PORT 4|6|any
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"time"
)

type report struct {
	ResolveUs int64    `json:"resolve_us"`
	Error     *string  `json:"error"`
	Addresses []string `json:"addresses"`
	Connect   *string  `json:"connect"`
	ConnectUs int64    `json:"connect_us"`
}

func resolverError(err error) string {
	var failure *net.DNSError
	switch {
	case !errors.As(err, &failure):
		return err.Error()
	case failure.IsNotFound:
		return "not found"
	case failure.IsTimeout:
		return "timeout"
	default:
		return failure.Err
	}
}

func connectError(err error) string {
	var code syscall.Errno
	switch {
	case err == nil:
		return "ok"
	case errors.As(err, &code) && code == syscall.EPERM:
		return "EPERM"
	case errors.As(err, &code) && code == syscall.ECONNREFUSED:
		return "ECONNREFUSED"
	case errors.Is(err, os.ErrDeadlineExceeded):
		return "ETIMEDOUT"
	default:
		return err.Error()
	}
}

func main() {
	if len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, "usage: lookup NAME PORT 4|6|any")
		os.Exit(2)
	}
	network := map[string]string{"4": "ip4", "6": "ip6", "any": "ip"}[os.Args[3]]
	told := report{Addresses: []string{}}
	resolver := net.Resolver{PreferGo: true}
	start := time.Now()
	found, err := resolver.LookupIP(context.Background(), network, os.Args[1])
	told.ResolveUs = time.Since(start).Microseconds()
	if err != nil {
		text := resolverError(err)
		told.Error = &text
	}
	start = time.Now()
	for _, address := range found {
		told.Addresses = append(told.Addresses, address.String())
		if told.Connect != nil && *told.Connect == "ok" {
			continue
		}
		made, err := net.DialTimeout("tcp", net.JoinHostPort(address.String(), os.Args[2]), 3*time.Second)
		if err == nil {
			made.Close()
		}
		text := connectError(err)
		told.Connect = &text
	}
	told.ConnectUs = time.Since(start).Microseconds()
	json.NewEncoder(os.Stdout).Encode(told)
}
