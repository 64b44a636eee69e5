package rpc

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// listen opens a TCP listener and says what to do when it cannot.
func listen(name, addr string) (net.Listener, error) {
	l, err := net.Listen("tcp", addr)
	switch {
	case err == nil:
		return l, nil
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("%s listener %s: the port is in use; stop the process that holds it, choose another with --%s, or use port 0", name, addr, name)
	case errors.Is(err, syscall.EACCES):
		return nil, fmt.Errorf("%s listener %s: not allowed; choose a port above 1023 with --%s: %w", name, addr, name, err)
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return nil, fmt.Errorf("%s listener %s: this machine does not have that address; choose one of its own with --%s", name, addr, name)
	default:
		return nil, fmt.Errorf("%s listener %s: %w", name, addr, err)
	}
}

// limitListener bounds connections, in all and for each address, by refusing what is over: a client that is told
// goes to another node, one that waits in the backlog does not.
type limitListener struct {
	net.Listener
	name       string
	max        int
	perAddress int
	refusal    []byte // written before closing; nil: just close
	metrics    *metrics
	now        func() time.Time

	turning atomic.Int32   // connections that are being told
	told    sync.WaitGroup // their goroutines

	mu   sync.Mutex // guards open, from
	open int
	from map[netip.Addr]int
}

// Those over the limit are told so after they have asked: an answer before the request, or a close with the request
// unread, reaches many clients as a broken connection instead.
const (
	maxTurning  = 64 // at once; more are closed without a word
	turningTime = 500 * time.Millisecond
)

// turnAway tells a connection over the limit why, and closes it.
func (l *limitListener) turnAway(c net.Conn) {
	if l.refusal == nil || l.turning.Add(1) > maxTurning {
		if l.refusal != nil {
			l.turning.Add(-1)
		}
		_ = c.Close() // nothing was exchanged
		return
	}
	l.told.Go(func() {
		defer l.turning.Add(-1)
		defer c.Close()                                // best effort: the client is turned away in any case
		_ = c.SetDeadline(time.Now().Add(turningTime)) // as above
		var head [4 << 10]byte
		if _, err := c.Read(head[:]); err == nil {
			_, _ = c.Write(l.refusal) // as above
		}
	})
}

// Close implements net.Listener; it waits for those that are being told.
func (l *limitListener) Close() error {
	err := l.Listener.Close()
	l.told.Wait()
	return err
}

func newLimitListener(l net.Listener, name string, cfg Config, refusal []byte, m *metrics, now func() time.Time) *limitListener {
	return &limitListener{
		Listener: l, name: name, max: cfg.MaxConnections, perAddress: cfg.MaxConnectionsPerAddress, refusal: refusal,
		metrics: m, now: now, from: make(map[netip.Addr]int),
	}
}

// Accept implements net.Listener.
func (l *limitListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		addr := hostOf(c.RemoteAddr())
		if limit := l.enter(addr); limit != "" {
			l.metrics.refused.WithLabelValues(l.name, limit).Inc()
			l.turnAway(c)
			continue
		}
		l.metrics.connections.WithLabelValues(l.name).Inc()
		return &limitedConn{Conn: c, addr: &connAddr{Addr: c.RemoteAddr(), born: l.now()}, leave: sync.OnceFunc(func() { l.leave(addr) })}, nil
	}
}

// enter counts a connection, or names the limit that refuses it.
func (l *limitListener) enter(addr netip.Addr) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open >= l.max {
		return "node"
	}
	if l.perAddress > 0 && !addr.IsLoopback() && l.from[addr] >= l.perAddress {
		return "address"
	}
	l.open++
	l.from[addr]++
	return ""
}

func (l *limitListener) leave(addr netip.Addr) {
	l.metrics.connections.WithLabelValues(l.name).Dec()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open--
	if l.from[addr]--; l.from[addr] <= 0 {
		delete(l.from, addr)
	}
}

func hostOf(a net.Addr) netip.Addr {
	if t, ok := a.(*net.TCPAddr); ok {
		return t.AddrPort().Addr().Unmap()
	}
	return netip.Addr{}
}

// limitedConn gives its place back when it closes.
type limitedConn struct {
	net.Conn
	addr  *connAddr
	leave func()
}

// RemoteAddr implements net.Conn.
func (c *limitedConn) RemoteAddr() net.Addr { return c.addr }

// Close implements net.Conn.
func (c *limitedConn) Close() error {
	c.leave()
	return c.Conn.Close()
}
