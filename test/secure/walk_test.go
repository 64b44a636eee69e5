package secure

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/sluice-mq/sluice/gen/adminv1"
	_ "github.com/sluice-mq/sluice/gen/nodev1" // registers its services
	"github.com/sluice-mq/sluice/sdk/go/sluicev1"
	"github.com/sluice-mq/sluice/test/harness"
)

// who calls.
type who string

const (
	nobody   who = "nobody"
	stranger who = "a made-up token"
	app      who = "an app"
	node     who = "a node"
	admin    who = "an administrator"
)

// door says who may pass.
type door []who

var (
	public   = door{nobody, stranger, app, node, admin}
	anyone   = door{app, node, admin}
	messages = door{app, admin}
	admins   = door{admin}
	nodes    = door{node}
	joiners  = door{node, admin}
)

func (d door) lets(w who) bool {
	return slices.Contains(d, w)
}

// methodDoors has every method that is not for administrators; those of the admin API are, the set-up excepted.
var methodDoors = map[protoreflect.FullName]door{
	"sluice.v1.ProducerService.Publish":                messages,
	"sluice.v1.ProducerService.PublishStream":          messages,
	"sluice.v1.ConsumerService.Pull":                   messages,
	"sluice.v1.ConsumerService.Ack":                    messages,
	"sluice.v1.ConsumerService.Consume":                messages,
	"sluice.v1.SessionService.Nodes":                   anyone,
	"sluice.admin.v1.AdminService.Setup":               public,
	"sluice.node.v1.ControlService.Join":               joiners,
	"sluice.node.v1.ControlService.EnsureTopic":        nodes,
	"sluice.node.v1.ControlService.EnsureSubscription": nodes,
	"sluice.node.v1.PeerService.Settle":                nodes,
	"sluice.node.v1.PeerService.Pull":                  nodes,
	"sluice.node.v1.PeerService.GroupStatus":           nodes,
}

// callers makes a token for everyone.
func (s *site) callers(ctx context.Context) map[who]string {
	return map[who]string{
		nobody:   "",
		stranger: "slc_admin_" + strings.Repeat("0", 49),
		app:      s.app(ctx, "billing"),
		node:     strings.TrimSpace(s.administrate(ctx, "", "token", "create", "--node", "walker", "-q").Out),
		admin:    s.admin,
	}
}

func TestEveryMethodAsksForTheRightCredential(t *testing.T) {
	t.Parallel()
	s := setUp(t, nil)
	ctx := within(t, time.Minute)
	conn := dial(t, s.GRPC, nil)
	walked := 0
	for w, token := range s.callers(ctx) {
		for _, m := range methods() {
			walked++
			d, ok := methodDoors[m.FullName()]
			if !ok && m.Parent().FullName() == "sluice.admin.v1.AdminService" {
				d = admins
			} else if !ok {
				t.Errorf("%s is not in the table of doors", m.FullName())
				continue
			}
			err := invoke(bearer(ctx, token), conn, m)
			checkDoor(t, m.FullName(), w, d, err)
		}
	}
	if walked < 5*30 {
		t.Errorf("only %d calls were made", walked)
	}
}

// checkDoor holds an outcome against who may pass. What is let in may fail for its empty request, but not for want of a right.
func checkDoor(t *testing.T, m protoreflect.FullName, w who, d door, err error) {
	t.Helper()
	want := codes.PermissionDenied
	if w == nobody || w == stranger {
		want = codes.Unauthenticated
	}
	code := status.Code(err)
	switch {
	case !d.lets(w):
		if code != want {
			t.Errorf("%s by %s: %v, want %v", m, w, err, want)
		}
	case m == "sluice.admin.v1.AdminService.Setup":
		if code != codes.AlreadyExists {
			t.Errorf("%s by %s: %v, want that the link was used", m, w, err)
		}
	case code == codes.Unauthenticated || code == codes.PermissionDenied:
		t.Errorf("%s refuses %s: %v", m, w, err)
	case code == codes.Internal || code == codes.Unknown || code == codes.Unimplemented || code == codes.DeadlineExceeded:
		t.Errorf("%s by %s with an empty request: %v", m, w, err)
	}
}

// methods are those of all services that the generated code registers.
func methods() []protoreflect.MethodDescriptor {
	var out []protoreflect.MethodDescriptor
	protoregistry.GlobalFiles.RangeFiles(func(f protoreflect.FileDescriptor) bool {
		if !strings.HasPrefix(string(f.Package()), "sluice.") {
			return true
		}
		for i := range f.Services().Len() {
			ms := f.Services().Get(i).Methods()
			for j := range ms.Len() {
				out = append(out, ms.Get(j))
			}
		}
		return true
	})
	return out
}

// invoke calls a method with an empty request, the only one of its stream, and gives the error it ends with.
func invoke(ctx context.Context, conn *grpc.ClientConn, m protoreflect.MethodDescriptor) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	path := "/" + string(m.Parent().FullName()) + "/" + string(m.Name())
	req, resp := empty(m.Input()), empty(m.Output())
	if !m.IsStreamingClient() && !m.IsStreamingServer() {
		return conn.Invoke(ctx, path, req, resp)
	}
	stream, err := conn.NewStream(ctx, &grpc.StreamDesc{ClientStreams: true, ServerStreams: true}, path)
	if err != nil {
		return err
	}
	if err := stream.SendMsg(req); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	for {
		if err := stream.RecvMsg(resp); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

func empty(d protoreflect.MessageDescriptor) proto.Message {
	t, err := protoregistry.GlobalTypes.FindMessageByName(d.FullName())
	if err != nil {
		panic(err) // its package is imported
	}
	return t.New().Interface()
}

// pathDoors has every HTTP path of the node; those of the OpenAPI file must be here.
var pathDoors = map[string]door{
	"GET /healthz/live":                  public,
	"GET /healthz/ready":                 public,
	"GET /setup":                         public,
	"GET /":                              public,
	"GET /metrics":                       admins,
	"GET /v1/nodes":                      anyone,
	"GET /v1/openapi.json":               anyone,
	"GET /v1/nothing":                    anyone,
	"POST /v1/topics/{topic}/messages":   messages,
	"POST /v1/groups/{group}/pull":       messages,
	"POST /v1/groups/{group}/ack":        messages,
	"DELETE /v1/topics/{topic}/messages": anyone, // 405 for all; nobody learns more without a credential than from the file
}

func TestEveryPathAsksForTheRightCredential(t *testing.T) {
	t.Parallel()
	s := setUp(t, nil)
	ctx := within(t, time.Minute)
	callers := s.callers(ctx)
	paths := strings.NewReplacer("{topic}", "orders", "{group}", "g")
	for place, d := range pathDoors {
		method, path, _ := strings.Cut(place, " ")
		body := ""
		if method == http.MethodPost {
			body = "{}"
		}
		for w, token := range callers {
			got, text, err := call(ctx, nil, method, "http://"+s.HTTP+paths.Replace(path), token, body)
			if err != nil {
				t.Fatalf("%s by %s: %v", place, w, err)
			}
			want := http.StatusForbidden
			if w == nobody || w == stranger {
				want = http.StatusUnauthorized
			}
			switch {
			case method == http.MethodDelete:
				if got != http.StatusMethodNotAllowed {
					t.Errorf("%s by %s: %d %s", place, w, got, text)
				}
			case !d.lets(w) && got != want:
				t.Errorf("%s by %s: %d, want %d: %s", place, w, got, want, text)
			case d.lets(w) && (got == http.StatusUnauthorized || got == http.StatusForbidden || got >= http.StatusInternalServerError):
				t.Errorf("%s refuses %s: %d %s", place, w, got, text)
			}
		}
	}
	_, text, err := call(ctx, nil, http.MethodGet, "http://"+s.HTTP+"/v1/openapi.json", s.admin, "")
	if err != nil {
		t.Fatal(err)
	}
	var api struct {
		Paths map[string]map[string]json.RawMessage
	}
	if err := json.Unmarshal([]byte(text), &api); err != nil || len(api.Paths) == 0 {
		t.Fatalf("openapi.json: %v: %s", err, text)
	}
	for path, ms := range api.Paths {
		for m := range ms {
			if place := strings.ToUpper(m) + " " + path; pathDoors[place] == nil {
				t.Errorf("%s of the OpenAPI file is not in the table of doors", place)
			}
		}
	}
}

func TestSetupSecretWorksOnce(t *testing.T) {
	t.Parallel()
	s := setUp(t, nil)
	ctx := within(t, time.Minute)
	_, secret, _ := strings.Cut(s.link, "#")
	if r := s.as(ctx, "", "", "setup", s.link); r.Code != 1 || !strings.Contains(r.Err, "was used already") || strings.TrimSpace(r.Out) != "" {
		t.Errorf("second use: exit %d, %s%s", r.Code, r.Out, r.Err)
	}
	if status, text, err := call(ctx, nil, http.MethodPost, "http://"+s.HTTP+"/v1/setup", "", `{"secret":"`+secret+`"}`); err != nil || status != http.StatusConflict || strings.Contains(text, "slc_") {
		t.Errorf("second use over HTTP: %d %s %v", status, text, err)
	}
	// The secret is no credential either.
	if status, _, err := call(ctx, nil, http.MethodGet, "http://"+s.HTTP+"/v1/nodes", secret, ""); err != nil || status != http.StatusUnauthorized {
		t.Errorf("the used secret as a token: %d %v", status, err)
	}

	// Of a hundred at once, one wins.
	n := harness.Start(t)
	_, secret, _ = strings.Cut(n.SetupLink(), "#")
	conn := dial(t, n.GRPC, nil)
	won := make(chan error, 100)
	for range cap(won) {
		go func() {
			_, err := adminv1.NewAdminServiceClient(conn).Setup(ctx, &adminv1.SetupRequest{Secret: secret})
			won <- err
		}()
	}
	winners := 0
	for range cap(won) {
		if err := <-won; err == nil {
			winners++
		} else if status.Code(err) != codes.AlreadyExists {
			t.Errorf("a loser of the race: %v", err)
		}
	}
	if winners != 1 {
		t.Errorf("%d callers became administrator by one link", winners)
	}
}

func TestRevokedTokenEndsALiveStream(t *testing.T) {
	t.Parallel()
	s := setUp(t, nil)
	ctx := within(t, time.Minute)
	s.administrate(ctx, "", "topic", "create", "orders", "--partitions", "1")
	tokens := map[string]string{"billing": s.app(ctx, "billing"), "shipping": s.app(ctx, "shipping")}
	s.Must(ctx, "one\n", s.reach(tokens["billing"], "pub", "orders")...)
	open := func(name string) grpc.BidiStreamingClient[sluicev1.ConsumeRequest, sluicev1.ConsumeResponse] {
		stream, err := sluicev1.NewConsumerServiceClient(dial(t, s.GRPC, nil)).Consume(bearer(ctx, tokens[name]))
		if err != nil {
			t.Fatal(err)
		}
		for _, frame := range []*sluicev1.ConsumeRequest{
			{Frame: &sluicev1.ConsumeRequest_Open{Open: &sluicev1.Subscription{Group: name, Topics: []string{"orders"}}}},
			{Frame: &sluicev1.ConsumeRequest_Credit{Credit: 10}},
		} {
			if err := stream.Send(frame); err != nil {
				t.Fatal(err)
			}
		}
		for {
			f, err := stream.Recv()
			if err != nil {
				t.Fatalf("stream of %s: %v", name, err)
			}
			if f.GetDeliveries() != nil {
				return stream
			}
		}
	}
	revoked, other := open("billing"), open("shipping")
	id := ""
	for _, l := range harness.Decode[struct{ ID, App string }](t, flat(s.administrate(ctx, "", "token", "list", "-o", "json").Out)) {
		if l.App == "billing" {
			id = l.ID
		}
	}
	s.administrate(ctx, "", "token", "revoke", id)
	at := time.Now()
	err := ended(revoked)
	took := time.Since(at)
	if status.Code(err) != codes.Unauthenticated || took > 5*time.Second {
		t.Errorf("the stream ended %v after the revocation with %v", took, err)
	}
	t.Logf("the stream ended %v after the revocation", took.Round(time.Millisecond))
	if r := s.as(ctx, tokens["billing"], "x\n", "pub", "orders", "--timeout", "5s"); r.Code != 1 {
		t.Error("a revoked token publishes")
	}
	// The other app's stream goes on.
	s.Must(ctx, "two\n", s.reach(tokens["shipping"], "pub", "orders")...)
	for {
		f, err := other.Recv()
		if err != nil {
			t.Fatalf("the stream of another app ended too: %v", err)
		}
		if f.GetDeliveries() != nil {
			return
		}
	}
}

// ended is the error that a stream ends with.
func ended(s grpc.BidiStreamingClient[sluicev1.ConsumeRequest, sluicev1.ConsumeResponse]) error {
	for {
		if _, err := s.Recv(); err != nil {
			return err
		}
	}
}

// flat gives a line per object of a JSON listing, which is one list or one object a line.
func flat(out string) []string {
	var list []json.RawMessage
	if json.Unmarshal([]byte(out), &list) != nil {
		return strings.FieldsFunc(out, func(r rune) bool { return r == '\n' })
	}
	lines := make([]string, len(list))
	for i, l := range list {
		lines[i] = string(l)
	}
	return lines
}
