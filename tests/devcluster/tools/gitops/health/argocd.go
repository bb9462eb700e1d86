package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	lua "github.com/yuin/gopher-lua"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// What Argo CD takes for an answer; anything else is Unknown to it.
var argoStates = []string{"Healthy", "Progressing", "Degraded", "Suspended", "Missing", "Unknown"}

// argoCD runs a script of argocd-cm under Argo CD's conditions: of Lua's libraries only base, package and table (no
// string, unless an administrator opens them all), one second, and what is being deleted is not asked about.
func argoCD(script string) func(*unstructured.Unstructured) (health, error) {
	return func(object *unstructured.Unstructured) (health, error) {
		if object.GetDeletionTimestamp() != nil {
			return health{"Progressing", "Pending deletion"}, nil
		}
		state := lua.NewState(lua.Options{SkipOpenLibs: true})
		defer state.Close()
		for _, open := range []lua.LGFunction{lua.OpenPackage, lua.OpenBase, lua.OpenTable} {
			if err := state.CallByParam(lua.P{Fn: state.NewFunction(open), Protect: true}); err != nil {
				return health{}, err
			}
		}
		limited, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		state.SetContext(limited)
		state.SetGlobal("obj", value(state, object.Object))
		if err := state.DoString(script); err != nil {
			return health{}, err
		}
		answer, isTable := state.Get(-1).(*lua.LTable)
		if !isTable {
			return health{}, fmt.Errorf("the script gives a %s, not a table", state.Get(-1).Type())
		}
		said := health{lua.LVAsString(answer.RawGetString("status")), lua.LVAsString(answer.RawGetString("message"))}
		if !slices.Contains(argoStates, said.Status) {
			return health{}, fmt.Errorf("Argo CD knows no state %q", said.Status)
		}
		return said, nil
	}
}

// value is a piece of an object as Lua has it.
func value(state *lua.LState, from any) lua.LValue {
	switch from := from.(type) {
	case bool:
		return lua.LBool(from)
	case int64:
		return lua.LNumber(from)
	case float64:
		return lua.LNumber(from)
	case string:
		return lua.LString(from)
	case []any:
		table := state.CreateTable(len(from), 0)
		for _, item := range from {
			table.Append(value(state, item))
		}
		return table
	case map[string]any:
		table := state.CreateTable(0, len(from))
		for key, item := range from {
			table.RawSetString(key, value(state, item))
		}
		return table
	}
	return lua.LNil
}
