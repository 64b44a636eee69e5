package rpc

import (
	"context"
	"encoding/json/jsontext"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"mime"
	"net"
	"net/http"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/propagation"

	"github.com/sluice-mq/sluice/internal/fault"
)

// bodyTimeout is how long a client may take to send a request's body.
const bodyTimeout = 30 * time.Second

// paths collects handlers by pattern and method until Start.
type paths struct {
	byPattern map[string]map[string]http.Handler
	home      http.Handler
}

func (s *Server) initHTTP() {
	s.paths = paths{byPattern: make(map[string]map[string]http.Handler), home: http.HandlerFunc(plainHome)}
	s.http = &http.Server{
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    16 << 10,
		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: s.cfg.MaxStreams},
		ErrorLog:          log.New(&lineLogger{s.log}, "", 0),
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, remoteAddrKey{}, c.RemoteAddr())
		},
	}
	s.Handle(http.MethodGet, "/healthz/live", Public, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		writeHealth(w, http.StatusOK, "live", "")
	}))
	s.Handle(http.MethodGet, "/healthz/ready", Public, http.HandlerFunc(s.ready))
	if s.deps.Gatherer != nil {
		s.Handle(http.MethodGet, "/metrics", Admin, promhttp.HandlerFor(s.deps.Gatherer, promhttp.HandlerOpts{
			ErrorHandling: promhttp.ContinueOnError, MaxRequestsInFlight: 4, Timeout: 10 * time.Second,
		}))
	}
}

// Handle adds a handler for a method and a path pattern of net/http's ServeMux (without method). GET serves HEAD too. Before Start only.
func (s *Server) Handle(method, pattern string, right Right, h http.Handler) {
	methods := s.paths.byPattern[pattern]
	if methods == nil {
		methods = make(map[string]http.Handler)
		s.paths.byPattern[pattern] = methods
	}
	methods[method] = s.guard(right, h)
	if method == http.MethodGet {
		methods[http.MethodHead] = methods[method]
	}
}

// SetHome replaces the page at "/" and below (the console). It is public: what it shows must be static. Before Start only.
func (s *Server) SetHome(h http.Handler) { s.paths.home = h }

// serveHTTP builds the tree of paths and serves it.
func (s *Server) serveHTTP() error {
	mux := http.NewServeMux()
	for pattern, methods := range s.paths.byPattern {
		mux.Handle(pattern, s.byMethod(methods))
	}
	mux.Handle("/v1/", s.guard(Authenticated, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.writeError(w, http.StatusNotFound, fault.New(fault.InvalidArgument, "no such path %s; see /v1/openapi.json", r.URL.EscapedPath()))
	})))
	mux.Handle("/", s.guard(Public, s.byMethod(map[string]http.Handler{http.MethodGet: s.paths.home, http.MethodHead: s.paths.home})))
	// Browsers send cookies and client certificates along with requests that other sites make; there is no CORS either.
	cross := http.NewCrossOriginProtection()
	cross.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		s.WriteError(w, fault.New(fault.PermissionDenied, "cross-origin request refused; call from the node's own origin or not from a browser"))
	}))
	s.http.Handler = cross.Handler(mux)

	var refusal []byte
	if s.certs == nil {
		refusal = fullAnswer()
	}
	l := net.Listener(newLimitListener(s.httpListener, "http", s.cfg, refusal, s.metrics, s.deps.Now))
	if s.certs == nil {
		return s.http.Serve(l)
	}
	s.http.TLSConfig = s.certs.server(&s.certs.http)
	return s.http.ServeTLS(l, "", "")
}

// byMethod answers other methods with 405 in the same form as other errors.
func (s *Server) byMethod(methods map[string]http.Handler) http.Handler {
	var allow []string
	for m := range methods {
		allow = append(allow, m)
	}
	slices.Sort(allow)
	allowed := strings.Join(allow, ", ")
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if h, ok := methods[r.Method]; ok {
			h.ServeHTTP(w, r)
			return
		}
		w.Header().Set("Allow", allowed)
		s.writeError(w, http.StatusMethodNotAllowed, fault.New(fault.InvalidArgument, "method %s is not allowed here; use %s", r.Method, allowed))
	})
}

// guard authorizes, recovers and counts.
func (s *Server) guard(right Right, h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sw := &statusWriter{ResponseWriter: w}
		defer func() {
			if v := recover(); v != nil && v != http.ErrAbortHandler { //nolint:errorlint // a sentinel that is compared, as net/http does
				s.metrics.panics.Inc()
				err := panicError(r.Pattern, v, debug.Stack())
				if sw.status == 0 {
					s.WriteError(sw, err)
				} else {
					_ = s.faults.Fault(err) // too late to answer: for the log
				}
			}
			s.metrics.calls.WithLabelValues("http", strconv.Itoa(max(sw.status, 200)/100)+"xx").Inc()
		}()
		sw.Header().Set("X-Content-Type-Options", "nosniff")
		c, err := s.authorizeHTTP(r, right)
		if err != nil {
			s.WriteError(sw, err)
			return
		}
		ctx := context.WithValue(r.Context(), callerKey{}, c)
		if s.cfg.Tracing {
			ctx = otel.GetTextMapPropagator().Extract(ctx, propagation.HeaderCarrier(r.Header))
			var end func()
			ctx, end = startSpan(ctx, r)
			defer end()
		}
		h.ServeHTTP(sw, r.WithContext(ctx))
	})
}

// statusWriter remembers the status for the counter.
type statusWriter struct {
	http.ResponseWriter
	status int
}

// WriteHeader implements http.ResponseWriter.
func (w *statusWriter) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

// Write implements io.Writer.
func (w *statusWriter) Write(b []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	return w.ResponseWriter.Write(b)
}

// Unwrap lets http.ResponseController through.
func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

// ready answers the readiness probe.
func (s *Server) ready(w http.ResponseWriter, _ *http.Request) {
	select {
	case <-s.draining:
		writeHealth(w, http.StatusServiceUnavailable, "draining", "the node is stopping or draining")
		return
	default:
	}
	if s.deps.Ready != nil {
		if err := s.deps.Ready(); err != nil {
			writeHealth(w, http.StatusServiceUnavailable, "not_ready", err.Error())
			return
		}
	}
	writeHealth(w, http.StatusOK, "ready", "")
}

func writeHealth(w http.ResponseWriter, code int, state, why string) {
	b := append([]byte(`{"status":`), quote(state)...)
	if why != "" {
		b = append(append(b, `,"why":`...), quote(why)...)
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	_, _ = w.Write(append(b, "}\n"...)) // the client is gone: nothing to do
}

// AppendError appends the JSON form of e: {"code","message","retry_after_ms","maybe_sent"}, or null.
func AppendError(b []byte, e *fault.Error) []byte {
	if e == nil {
		return append(b, "null"...)
	}
	b = append(b, `{"code":`...)
	b = AppendQuote(b, string(e.Reason))
	b = append(b, `,"message":`...)
	b = AppendQuote(b, e.Text)
	b = append(b, `,"retry_after_ms":`...)
	b = strconv.AppendInt(b, milliseconds(e.RetryAfter), 10)
	b = append(b, `,"maybe_sent":`...)
	b = strconv.AppendBool(b, e.MaybeSent)
	return append(b, '}')
}

// AppendQuote appends s as a JSON string; bytes that are not UTF-8 become U+FFFD.
func AppendQuote(b []byte, s string) []byte {
	n := len(b)
	b, err := jsontext.AppendQuote(b, s)
	if err != nil {
		b, _ = jsontext.AppendQuote(b[:n], strings.ToValidUTF8(s, "\ufffd")) // valid now
	}
	return b
}

func quote(s string) []byte { return AppendQuote(nil, s) }

// WriteError answers a request with err, its status, and Retry-After where the caller should come again.
func (s *Server) WriteError(w http.ResponseWriter, err error) {
	e := s.faults.Fault(err)
	s.writeError(w, CodeOf(e.Reason).HTTP, e)
}

func (s *Server) writeError(w http.ResponseWriter, status int, e *fault.Error) {
	SetErrorHeaders(w.Header(), status, e)
	w.WriteHeader(status)
	_, _ = w.Write(append(AppendError([]byte(`{"error":`), e), "}\n"...)) // the client is gone: nothing to do
}

// SetErrorHeaders sets what belongs to an error answer with a JSON body.
func SetErrorHeaders(h http.Header, status int, e *fault.Error) {
	h.Set("Content-Type", "application/json")
	h.Set("Cache-Control", "no-store")
	switch status {
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		// Whole seconds, rounded up; clients that can read milliseconds find them in the body.
		h.Set("Retry-After", strconv.FormatInt(max(1, (milliseconds(e.RetryAfter)+999)/1000), 10))
	case http.StatusUnauthorized:
		h.Set("WWW-Authenticate", `Bearer realm="sluice"`)
	}
}

// ReadBody reads a request's body of at most limit bytes; a longer one is MessageTooLarge, a slow one DeadlineExceeded.
func ReadBody(w http.ResponseWriter, r *http.Request, limit int) ([]byte, error) {
	if r.ContentLength > int64(limit) {
		return nil, &http.MaxBytesError{Limit: int64(limit)}
	}
	if r.Header.Get("Content-Encoding") != "" {
		return nil, fault.New(fault.InvalidArgument, "content-encoding %q is not supported; send the body as it is", r.Header.Get("Content-Encoding"))
	}
	rc := http.NewResponseController(w)
	_ = rc.SetReadDeadline(time.Now().Add(bodyTimeout)) // not supported by recorders in tests: then there is none
	body := http.MaxBytesReader(w, r.Body, int64(limit))
	var b []byte
	var err error
	if r.ContentLength > 0 {
		b = make([]byte, r.ContentLength)
		_, err = io.ReadFull(body, b)
	} else {
		b, err = io.ReadAll(body)
	}
	_ = rc.SetReadDeadline(time.Time{})
	var tooLarge *http.MaxBytesError
	var timeout net.Error
	switch {
	case err == nil:
		return b, nil
	case errors.As(err, &tooLarge):
		return nil, err
	case errors.As(err, &timeout) && timeout.Timeout():
		return nil, fault.New(fault.DeadlineExceeded, "the body did not arrive within %s", bodyTimeout)
	default:
		return nil, fault.Wrap(err, fault.InvalidArgument, "the body broke off: %v", err)
	}
}

// ContentType is the media type of a request in lower case, "" where there is none or it is malformed. A charset other than UTF-8 is an error.
func ContentType(r *http.Request) (string, error) {
	t, params, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil {
		return "", nil //nolint:nilerr // malformed is treated like missing: the caller names what it wants
	}
	if c, ok := params["charset"]; ok && !strings.EqualFold(c, "utf-8") {
		return "", fault.New(fault.InvalidArgument, "charset %q is not supported; send UTF-8", c)
	}
	return t, nil
}

// fullAnswer is what a connection over the limit gets.
func fullAnswer() []byte {
	body := append(AppendError([]byte(`{"error":`), &fault.Error{
		Reason: fault.SlowDown, Text: "node full: too many connections; go to another node or retry later", RetryAfter: time.Second,
	}), "}\n"...)
	return fmt.Appendf(nil, "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nRetry-After: 1\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
}

func plainHome(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != "/" {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
	_, _ = io.WriteString(w, `<!doctype html><html lang="en"><title>Sluice</title><h1>Sluice</h1><p>This node serves. Its API is described at <a href="/v1/openapi.json">/v1/openapi.json</a>, its state at <a href="/healthz/ready">/healthz/ready</a>.</p></html>`)
}

// lineLogger takes net/http's own complaints (broken handshakes and the like).
type lineLogger struct{ log *slog.Logger }

// Write implements io.Writer.
func (l *lineLogger) Write(b []byte) (int, error) {
	l.log.Debug("http server", "msg_text", strings.TrimSpace(string(b)))
	return len(b), nil
}
