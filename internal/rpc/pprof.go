package rpc

import (
	"net"
	"net/http"
	"net/http/pprof"
	"time"
)

// pprofServer is the profiling listener: the loopback only (Validate), no credentials, off by default.
type pprofServer struct {
	listener net.Listener
	server   *http.Server
}

func newPprof(addr string) (*pprofServer, error) {
	l, err := listen("pprof", addr)
	if err != nil {
		return nil, err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	return &pprofServer{listener: l, server: &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}}, nil
}

func (p *pprofServer) serve() error { return p.server.Serve(p.listener) }

func (p *pprofServer) close() {
	_ = p.server.Close() // profiles are given up at the end
	_ = p.listener.Close()
}
