package data

import (
	_ "embed" // the description of the API
	"fmt"
	"io"
	"net/http"
	"strconv"

	"github.com/sluice-mq/sluice/internal/fault"
	"github.com/sluice-mq/sluice/internal/rpc"
)

//go:embed openapi.json
var openAPI []byte

// OpenAPI is the description of the HTTP API that the node serves.
func OpenAPI() []byte { return openAPI }

func (s *Service) registerHTTP() {
	s.server.Handle(http.MethodPost, "/v1/topics/{topic}/messages", rpc.Produce, s.handler(s.postMessages))
	s.server.Handle(http.MethodPost, "/v1/groups/{group}/pull", rpc.Consume, s.handler(s.postPull))
	s.server.Handle(http.MethodPost, "/v1/groups/{group}/ack", rpc.Consume, s.handler(s.postAck))
	s.server.Handle(http.MethodGet, "/v1/nodes", rpc.Authenticated, s.handler(s.getNodes))
	s.server.Handle(http.MethodGet, "/v1/openapi.json", rpc.Authenticated, s.handler(func(w http.ResponseWriter, _ *http.Request) error {
		return writeJSON(w, http.StatusOK, openAPI)
	}))
}

// unwritten is the error of an answer that did not reach the client: there is nobody to tell.
type unwritten struct{ error }

// handler answers what f fails with.
func (s *Service) handler(f func(http.ResponseWriter, *http.Request) error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		err := f(w, r)
		if _, gone := err.(unwritten); err != nil && !gone { //nolint:errorlint // made in this file, never wrapped
			s.server.WriteError(w, err)
		}
	})
}

func writeJSON(w http.ResponseWriter, status int, body []byte) error {
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	if _, err := w.Write(body); err != nil {
		return unwritten{err}
	}
	return nil
}

// jsonBody reads and decodes the body of a request that must be JSON.
func (s *Service) jsonBody(w http.ResponseWriter, r *http.Request, limit int, into any) error {
	t, err := rpc.ContentType(r)
	if err != nil {
		return err
	}
	// Asking for the type keeps forms of other sites out, which browsers send without asking the node first.
	if t != "application/json" {
		return s.wrongType(w, r, "application/json")
	}
	body, err := rpc.ReadBody(w, r, limit)
	if err != nil {
		return err
	}
	return decodeJSON(body, into)
}

func (s *Service) wrongType(w http.ResponseWriter, r *http.Request, want string) error {
	e := fault.New(fault.InvalidArgument, "content type %q is not supported here; send %s", cut(r.Header.Get("Content-Type"), 100), want)
	rpc.SetErrorHeaders(w.Header(), http.StatusUnsupportedMediaType, e)
	w.WriteHeader(http.StatusUnsupportedMediaType)
	if _, err := w.Write(append(rpc.AppendError([]byte(`{"error":`), e), "}\n"...)); err != nil {
		return unwritten{err}
	}
	return unwritten{io.EOF} // answered
}

// pathName takes a topic or group out of the path; the mux has unescaped it.
func pathName(r *http.Request, what string) (string, error) {
	n := r.PathValue(what)
	if n == "" {
		return "", fault.New(fault.InvalidArgument, "the path names no %s", what)
	}
	return n, nil
}

// bodyLimit is what a JSON body may take: base64 makes bytes longer by a third.
func (s *Service) bodyLimit() int { return s.server.MaxRequestBytes()/3*4 + 1<<20 }

// ackBodyLimit bounds a body without messages: receipts of some hundred bytes, maxAcks of them.
const ackBodyLimit = 8 << 20

var errNoAcks = fault.New(fault.InvalidArgument, "the request has no acks; send at least one")

func invalid(format string, args ...any) error {
	return &fault.Error{Reason: fault.InvalidArgument, Text: fmt.Sprintf(format, args...)}
}
