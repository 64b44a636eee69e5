package telemetry

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"time"
)

// Pprof serves profiles on a listener of its own.
type Pprof struct {
	server   *http.Server
	listener net.Listener
	done     chan struct{}
}

// ServePprof listens on an address of the loopback; another one is refused, since profiles show memory.
func ServePprof(addr string) (*Pprof, error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("listen for profiles: %w", err)
	}
	if tcp, ok := l.Addr().(*net.TCPAddr); !ok || !tcp.IP.IsLoopback() {
		_ = l.Close() // nothing was served on it
		return nil, fmt.Errorf("listen for profiles on %s: not on the loopback; use 127.0.0.1:PORT", addr)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	p := &Pprof{
		server:   &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second},
		listener: l,
		done:     make(chan struct{}),
	}
	go func() {
		defer close(p.done)
		_ = p.server.Serve(l) // always ends with an error; the node lives without profiles
	}()
	return p, nil
}

// Addr is where it listens.
func (p *Pprof) Addr() string { return p.listener.Addr().String() }

// Stop ends it, cutting off running profiles.
func (p *Pprof) Stop(context.Context) error {
	err := p.server.Close()
	<-p.done
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}
