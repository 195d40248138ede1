"""Every keyword of JSON Schema that is known here, and what becomes of it. What is in no table is refused.

enforced     no answer can break it; some combinations are refused all the same (docs/grammar.md lists them)
annotation   says nothing about validity
refused      with a 400 that names it and its place
"""

from __future__ import annotations

ENFORCED: dict[str, str] = {
    "type": "a name or a list of them",
    "enum": "its values, written as in the schema",
    "const": "its value, written as in the schema",
    "anyOf": "with siblings: both hold",
    "allOf": "members and siblings are worked into one",
    "oneOf": "where the members are proven to exclude each other (types, constants, ranges, a required property)",
    "$ref": "within the schema (# or #/...), recursive too; draft 7 and earlier: no siblings",
    "properties": "written in this order, those of allOf and $ref after them",
    "required": "",
    "additionalProperties": "",
    "patternProperties": "where the patterns exclude each other; not beside other properties from allOf or $ref",
    "minProperties": "up to the required ones, or one more where every property named is required",
    "maxProperties": "where every property named is required, or nothing is left to bound",
    "items": "as a list: in drafts before 2020-12, or where no $schema says which",
    "prefixItems": "in draft 2020-12, or where no $schema says which",
    "additionalItems": "beside a list of items",
    "minItems": "",
    "maxItems": "",
    "minLength": "in characters (code points)",
    "maxLength": "in characters (code points)",
    "pattern": "anywhere in the string, in the dialect below",
    "format": "date, time, date-time, duration, email, hostname, ipv4, ipv6, uuid, uri",
    "minimum": "of at most 15 digits",
    "maximum": "of at most 15 digits",
    "exclusiveMinimum": "a number, of at most 15 digits",
    "exclusiveMaximum": "a number, of at most 15 digits",
    "multipleOf": "of at most 5 digits but for zeros; not some, as 0.07, that doubles miss",
}

ANNOTATIONS: dict[str, str] = {
    "title": "",
    "description": "",
    "default": "",
    "examples": "",
    "example": "",
    "$comment": "",
    "deprecated": "",
    "readOnly": "",
    "writeOnly": "",
    "$schema": "draft 4, 6, 7, 2019-09 or 2020-12; tells how a $ref meets its siblings",
    "$id": "at the root",
    "$defs": "what $ref points at; unused ones are not looked at",
    "definitions": "what $ref points at; unused ones are not looked at",
    "discriminator": "OpenAPI's hint beside oneOf",
}

REFUSED: dict[str, str] = {
    "not": "",
    "if": "",
    "then": "",
    "else": "",
    "dependentSchemas": "",
    "dependentRequired": "",
    "dependencies": "",
    "propertyNames": "",
    "unevaluatedProperties": "",
    "unevaluatedItems": "",
    "uniqueItems": "unless false, or maxItems is at most 1",
    "contains": "",
    "minContains": "",
    "maxContains": "",
    "contentEncoding": "",
    "contentMediaType": "",
    "contentSchema": "",
    "$anchor": "",
    "$dynamicRef": "",
    "$dynamicAnchor": "",
    "$recursiveRef": "",
    "$recursiveAnchor": "",
    "$vocabulary": "",
    "id": "",
    "nullable": 'write type: [..., "null"]',
}

_YEAR_DAYS = (
    r"(\d{4}-((0[13578]|1[02])-(0[1-9]|[12]\d|3[01])|(0[469]|11)-(0[1-9]|[12]\d|30)|02-(0[1-9]|1\d|2[0-8]))"
    r"|(\d\d(0[48]|[2468][048]|[13579][26])|([02468][048]|[13579][26])00)-02-29)"
)
_CLOCK = r"([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d+)?([Zz]|[+-]([01]\d|2[0-3]):[0-5]\d)"
_OCTET = r"(25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
_IPV4 = rf"{_OCTET}(\.{_OCTET}){{3}}"
_GROUP = r"[0-9a-fA-F]{1,4}"
_TAIL = rf"({_GROUP}:{_GROUP}|{_IPV4})"
_IPV6 = (
    rf"(({_GROUP}:){{6}}{_TAIL}|::({_GROUP}:){{5}}{_TAIL}|({_GROUP})?::({_GROUP}:){{4}}{_TAIL}"
    rf"|(({_GROUP}:){{0,1}}{_GROUP})?::({_GROUP}:){{3}}{_TAIL}|(({_GROUP}:){{0,2}}{_GROUP})?::({_GROUP}:){{2}}{_TAIL}"
    rf"|(({_GROUP}:){{0,3}}{_GROUP})?::{_GROUP}:{_TAIL}|(({_GROUP}:){{0,4}}{_GROUP})?::{_TAIL}"
    rf"|(({_GROUP}:){{0,5}}{_GROUP})?::{_GROUP}|(({_GROUP}:){{0,6}}{_GROUP})?::)"
)
_LABEL = r"[a-zA-Z0-9]([a-zA-Z0-9]|-[a-zA-Z0-9]){0,31}"  # "--" in third and fourth place is left out: it marks punycode
_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_ESCAPED = "%[0-9A-Fa-f]{2}"
_HOST = rf"(([A-Za-z0-9._~!$&'()*+,;=-]|{_ESCAPED})+|\[{_IPV6}\])"
_USER = rf"([A-Za-z0-9._~!$&'()*+,;=:-]|{_ESCAPED})*@"
_IN_PATH = rf"([A-Za-z0-9._~!$&'()*+,;=:@-]|{_ESCAPED})"
_PATH = rf"({_IN_PATH}|/)*"

# Narrower than the standards in places (no leap second, no quoted local parts), never wider.
FORMATS: dict[str, tuple[str, int | None]] = {  # expression, longest text
    "date": (_YEAR_DAYS, None),
    "time": (_CLOCK, None),
    "date-time": (rf"{_YEAR_DAYS}[Tt]{_CLOCK}", None),
    "duration": (
        r"P(\d+W|(\d+Y(\d+M(\d+D)?)?|\d+M(\d+D)?|\d+D)(T(\d+H(\d+M(\d+S)?)?|\d+M(\d+S)?|\d+S))?"
        r"|T(\d+H(\d+M(\d+S)?)?|\d+M(\d+S)?|\d+S))",
        None,
    ),
    "email": (rf"{_ATOM}(\.{_ATOM})*@{_LABEL}(\.{_LABEL})*", 64),
    "hostname": (rf"{_LABEL}(\.{_LABEL})*", 253),
    "ipv4": (_IPV4, None),
    "ipv6": (_IPV6, None),
    "uuid": (r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}", None),
    "uri": (
        rf"[A-Za-z][A-Za-z0-9+.-]*:(//({_USER})?{_HOST}(:\d*)?(/{_PATH})?|/?{_IN_PATH}{_PATH})"
        rf"(\?({_IN_PATH}|[/?])*)?(#({_IN_PATH}|[/?])*)?",
        None,
    ),
}
