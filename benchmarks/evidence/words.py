"""The words that templates are filled with."""

NAMES = (
    "Mary", "John", "Anna", "Peter", "Paul", "Sarah", "David", "Emma", "James", "Laura", "Mark", "Lucy", "Tom", "Jane",
    "Robert", "Alice", "Michael", "Kate", "Daniel", "Susan",
)  # fmt: skip
PLACES = ("store", "park", "school", "station", "garden", "office", "library", "market")
THINGS = ("drink", "book", "letter", "ring", "key", "ball", "gift", "ticket")
CAPITALS = {
    "France": "Paris", "Italy": "Rome", "Spain": "Madrid", "Germany": "Berlin", "England": "London", "Russia": "Moscow",
    "Japan": "Tokyo", "China": "Beijing", "Egypt": "Cairo", "Greece": "Athens", "Austria": "Vienna", "Poland": "Warsaw",
    "Portugal": "Lisbon", "Ireland": "Dublin", "Norway": "Oslo", "Sweden": "Stockholm", "Cuba": "Havana",
    "Canada": "Ottawa", "Turkey": "Ankara", "Iraq": "Baghdad", "Iran": "Tehran", "Syria": "Damascus", "Peru": "Lima",
    "Kenya": "Nairobi", "Hungary": "Budapest", "Belgium": "Brussels", "Denmark": "Copenhagen", "Finland": "Helsinki",
    "Afghanistan": "Kabul", "Lebanon": "Beirut", "Thailand": "Bangkok", "Chile": "Santiago",
}  # fmt: skip
HEADS = (
    ("key", "keys"), ("teacher", "teachers"), ("book", "books"), ("doctor", "doctors"), ("picture", "pictures"),
    ("song", "songs"), ("door", "doors"), ("letter", "letters"), ("student", "students"), ("report", "reports"),
)  # fmt: skip
NEAR = (
    ("cabinet", "cabinets"), ("room", "rooms"), ("child", "children"), ("friend", "friends"), ("house", "houses"),
    ("car", "cars"), ("artist", "artists"), ("window", "windows"),
)  # fmt: skip
JOBS = (
    "doctor",
    "farmer",
    "teacher",
    "lawyer",
    "writer",
    "baker",
    "nurse",
    "pilot",
    "singer",
    "soldier",
    "painter",
)
PLAIN_WORDS = (
    "apple", "river", "stone", "paper", "window", "summer", "horse", "music", "table", "ocean", "silver", "garden",
    "winter", "bread", "castle", "forest", "mirror", "bottle", "engine", "camera", "market", "pencil", "jacket",
    "island",
)  # fmt: skip
