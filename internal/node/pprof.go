package node

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"time"
)

// openPprof serves profiles on a listener of their own; the configuration allows the loopback only.
func (n *Node) openPprof() error {
	if n.cfg.Pprof == "" {
		return nil
	}
	l, err := net.Listen("tcp", n.cfg.Pprof)
	if err != nil {
		return fmt.Errorf("listen on %s for profiles: %w; choose another with pprof", n.cfg.Pprof, err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	s := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	served := make(chan struct{})
	go func() {
		defer close(served)
		if err := s.Serve(l); err != nil && err != http.ErrServerClosed {
			n.log.Error("listener of profiles ended", "err", err)
		}
	}()
	n.undo.add("profiles", func(context.Context) error {
		err := s.Close()
		<-served
		return err
	})
	n.log.Info("profiles are served", "pprof", l.Addr().String())
	return nil
}
